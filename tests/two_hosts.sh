#!/usr/bin/env bash
# Two hosts on one machine: network namespaces joined by a veth pair. The run lives in the first; an env-stepper in the
# second is given the NATS URL and the run's name, nothing else. Prints one JSON object. Needs root and iproute2.
# Usage: tests/two_hosts.sh FOLDER_OF_THE_PROGRAMS
set -euo pipefail
bin=$(realpath "$1")
nats=${NATS_SERVER:-$(command -v nats-server)}
here=$(realpath "$(dirname "$0")/..")
home=$(mktemp -d)
a=errand-a-$$; b=errand-b-$$
cleanup() {
  [ -n "${visitor:-}" ] && kill "$visitor" 2>/dev/null
  [ -n "${up:-}" ] && kill "$up" 2>/dev/null && wait "$up" 2>/dev/null
  [ -n "${server:-}" ] && kill "$server" 2>/dev/null
  ip netns del "$a" 2>/dev/null; ip netns del "$b" 2>/dev/null
  rm -rf "$home"
}
trap cleanup EXIT
ip netns add "$a"; ip netns add "$b"
ip link add "va$$" type veth peer name "vb$$"
ip link set "va$$" netns "$a"; ip link set "vb$$" netns "$b"
ip -n "$a" addr add 10.77.0.1/24 dev "va$$"; ip -n "$b" addr add 10.77.0.2/24 dev "vb$$"
for side in "$a va$$" "$b vb$$"; do set -- $side; ip -n "$1" link set "$2" up; ip -n "$1" link set lo up; done

url=nats://10.77.0.1:4222
ip netns exec "$a" "$nats" -js -sd "$home/store" -a 10.77.0.1 -p 4222 -l "$home/nats.log" & server=$!
sleep 1
# No stepper in the first namespace: every turn is made in the second.
ip netns exec "$a" "$bin/errand" --runs "$home/runs" up "$here/tests/pipelines/two-hosts.toml" --run hosts --nats "$url" --steppers 0 \
  > "$home/up.log" 2>&1 & up=$!
sleep 2
mkdir "$home/elsewhere"; cd "$home/elsewhere"
ip netns exec "$b" "$bin/env-stepper" --nats "$url" --run hosts --id far > "$home/far.log" 2>&1 & visitor=$!
if ! wait "$up"; then cat "$home/up.log" "$home/far.log" >&2; exit 1; fi
up=
python3 - "$home/runs/hosts/summary.json" <<'PY'
import json, sys
s = json.load(open(sys.argv[1]))
print(json.dumps({"bench": "two-hosts", "figures": {"turns": s["turns"], "audit_clean": s["audit"]["clean"]}}))
PY
