#!/usr/bin/env bash
# Draws the fixtures of the policy's parity tests afresh: random small models, with what transformers computes from them.
#
#   tests/parity/make.sh OUT [--seed N] [--count N] [--families qwen2,qwen3,llama,qwen2_5_vl,lora,llava,lora_llava]
#   ERRAND_PARITY=OUT cargo test --release -p policy parity
#
# PARITY_PYTHON names a Python that has requirements.txt; without it a virtual environment of its own is made in target/parity.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${PARITY_PYTHON:-}" ]; then
  venv=${CARGO_TARGET_DIR:-$here/../../target}/parity
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
  PARITY_PYTHON=$venv/bin/python
fi
exec "$PARITY_PYTHON" "$here/models.py" "$@"
