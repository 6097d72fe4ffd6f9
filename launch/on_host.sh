#!/usr/bin/env bash
# What tpu_pod.sh has done on each host of a slice; lies there with the rest of the code.
#
#   on_host.sh idle               fails where a run is under way
#   on_host.sh start ARGUMENT...  starts launch/local.sh; it outlives the connection
#   on_host.sh follow             shows its log from the start, ends when it ends and as it ends
#   on_host.sh stop               asks it to save and end
#
# ~/xrec_run holds `group`, the run's process group, `log`, and `status` once it has ended.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
state=$HOME/xrec_run

under_way() { [ -e "$state/group" ] && [ ! -e "$state/status" ] && kill -0 -- "-$(cat "$state/group")" 2>/dev/null; }

# The hosts' own Python is 3.10 on Ubuntu 22.04, and 3.11 is needed: uv gets one.
find_python() {
  export PATH=$HOME/.local/bin:$PATH
  if command -v python3.12 >/dev/null || command -v python3.11 >/dev/null; then return; fi
  curl -LsSf https://astral.sh/uv/install.sh | sh
  uv python install 3.12
}

case $1 in
  idle)
    if under_way; then
      echo "$(hostname): a run is under way; end it with --stop" >&2
      exit 1
    fi
    ;;
  start)
    rm -rf -- "$state"
    mkdir -p -- "$state"
    nohup setsid bash "$here/on_host.sh" run "${@:2}" >"$state/log" 2>&1 </dev/null &
    until [ -e "$state/group" ]; do sleep 0.1; done
    ;;
  run)
    trap : TERM  # meant for the program; this shell lives on to note how it ends
    echo $$ >"$state/group"
    status=0
    find_python && XREC_ACCELERATOR=tpu XREC_DISTRIBUTED=tpu bash "$here/local.sh" "${@:2}" || status=$?
    echo "$status" >"$state/status.new"
    mv -- "$state/status.new" "$state/status"
    ;;
  follow)
    tail -n +1 -f --pid="$(cat "$state/group")" "$state/log"
    exit "$(cat "$state/status" 2>/dev/null || echo 1)"
    ;;
  stop) kill -TERM -- "-$(cat "$state/group")" ;;
esac
