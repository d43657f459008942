#!/usr/bin/env bash
# Exports a run in every form and opens each with the libraries that it is for.
#
#   tests/parity/exports.sh RUN [--runs FOLDER] [--formats "verl messages sharegpt lerobot spoc"] [--verl] [--lerobot]
#
# ERRAND names the program; PARITY_PYTHON a Python that has pyarrow, pandas, duckdb, datasets, pillow, h5py and av, with --verl also
# verl 0.9.1, with --lerobot lerobot 0.4.4 (both: pip install --no-deps, and what they import; stages/store/README.md
# says which). Without it a virtual environment of its own is made in target/exports.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
run=$1; shift
runs=runs; formats="verl messages sharegpt lerobot spoc"; more=()
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=$2; shift 2 ;;
    --formats) formats=$2; shift 2 ;;
    *) more+=("$1"); shift ;;
  esac
done
if [ -z "${PARITY_PYTHON:-}" ]; then
  [ -x "$target/exports/bin/python" ] || python3 -m venv "$target/exports"
  "$target/exports/bin/pip" install --quiet pyarrow pandas duckdb datasets pillow h5py av
  PARITY_PYTHON=$target/exports/bin/python
fi
errand=${ERRAND:-$target/release/errand}
out=$(mktemp -d); trap 'rm -rf "$out"' EXIT
for format in $formats; do
  "$errand" --runs "$runs" export "$run" --to "$format" --out "$out/$format" --val 0.2 >&2
  flags=()
  for flag in ${more[@]+"${more[@]}"}; do [ "$flag" = "--$format" ] && flags+=("$flag"); done
  HF_HOME=$out/cache "$PARITY_PYTHON" "$here/open_export.py" "$format" "$out/$format" --store "$runs/$run/trajectories" --run "$run" ${flags[@]+"${flags[@]}"}
done
