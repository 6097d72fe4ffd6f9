#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice, or of several.
#
#   bash launch/tpu_pod.sh --name NAME --zone ZONE [OPTION...] -- --workdir gs://BUCKET/RUN [ARGUMENT...]
#
#   --name NAME      the queued resource; with --type it is made first if there is none of that name
#   --zone ZONE      --project PROJECT
#   --type TYPE      make it: v5litepod-16, v5p-128, v6e-8, ...
#   --slices N       make it of N slices (then --config.mesh.dcn_data=N)
#   --spot           make it of spot capacity
#   --version V      the TPU VM's image, where it should not be the one for the type
#   --follow         only show the log of the run that is under way, from its start
#   --stop           only ask the run to save and end
#   --delete         delete the queued resource after a run that ended well; without `--`, do only that
#   --dry_run        print what would be done, do nothing
#
# After `--` come the arguments of `python -m xrec_jax.train`. The code that is copied is this working
# tree, less what git ignores. The run goes on if this script is interrupted; --follow takes it up again.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source=launch/tools.sh
source launch/tools.sh

name='' type='' version='' slices=1 spot='' delete='' action='' where=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --name) name=$(value "$@") && shift ;;
    --zone | --project) where+=("$1=$(value "$@")") && shift ;;
    --type) type=$(value "$@") && shift ;;
    --version) version=$(value "$@") && shift ;;
    --slices) slices=$(value "$@") && shift ;;
    --spot) spot=--spot ;;
    --follow | --stop) action=${1#--} ;;
    --delete) delete=yes ;;
    --dry_run) dry_run=yes ;;
    -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    *) fail "unknown option \"$1\"; --help tells more. The program's own arguments come after \"--\"" ;;
  esac
  shift
done
if [ "${1:-}" = -- ]; then action=train && shift; fi
[ -n "$name" ] || fail 'give --name: the queued resource to use or to make'
case " ${where[*]} " in *' --zone='*) ;; *) fail 'give --zone' ;; esac
if [ -z "$action$delete" ]; then fail 'give "--" and the arguments of the run, or --follow, --stop or --delete'; fi
if [ "$action" = train ]; then shared_workdir "$@"; fi
need gcloud 'install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install), then: gcloud auth login'

resources=(gcloud compute tpus queued-resources)
on() { run "${resources[@]}" ssh "$name" "${where[@]}" --node="$1" --worker="$1" --command="$2"; }
state() { "${resources[@]}" describe "$name" "${where[@]}" --format='value(state.state)' 2>/dev/null || true; }

create() {
  if [ -z "$version" ]; then
    case $type in
      v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) fail "which image does a $type need? Give --version (cloud.google.com/tpu/docs/runtimes)" ;;
    esac
  fi
  local nodes=(--node-id="$name")
  if [ "$slices" -gt 1 ]; then nodes=(--node-count="$slices" --node-prefix="$name"); fi
  run "${resources[@]}" create "$name" "${where[@]}" "${nodes[@]}" \
    --accelerator-type="$type" --runtime-version="$version" ${spot:+"$spot"}
}

wait_until_active() {
  local now='' before=''
  while now=$(state) && [ "$now" != ACTIVE ]; do
    case $now in
      FAILED | SUSPENDING | SUSPENDED | DELETING)
        fail "$name is $now, it will not run any more; bash launch/tpu_pod.sh --delete ... removes it" ;;
      '') fail "there is no queued resource $name (${where[*]}); --type makes one" ;;
    esac
    if [ "$now" != "$before" ]; then say "$name: $now; waiting until it is ACTIVE"; fi
    before=$now
    sleep "${XREC_POLL_SECONDS:-30}"
  done
}

# What is started on the hosts outlives the connection: on_host.sh.
start() {
  local code=xrec_jax.tgz
  if [ -n "$dry_run" ]; then
    printf 'would pack the working tree into %s\n' "$code"
  else
    code=$(mktemp -d)/$code
    git ls-files -z --cached --others --exclude-standard |
      tar czf "$code" --null --ignore-failed-read --files-from=-
  fi
  on all 'if [ -e xrec_jax/launch/on_host.sh ]; then bash xrec_jax/launch/on_host.sh idle; fi'
  run "${resources[@]}" scp "$code" "$name:xrec_jax.tgz" "${where[@]}" --node=all --worker=all
  if [ -z "$dry_run" ]; then rm -r -- "$(dirname -- "$code")"; fi
  on all "mkdir -p xrec_jax && tar xzf xrec_jax.tgz -C xrec_jax &&
$(forwarded)bash xrec_jax/launch/on_host.sh start $(quoted "$@")"
}

follow() { on 0 'bash xrec_jax/launch/on_host.sh follow'; }

case $action in
  train)
    if [ -n "$type" ] && { [ -n "$dry_run" ] || [ -z "$(state)" ]; }; then create; fi
    if [ -z "$dry_run" ]; then wait_until_active; fi
    start "$@"
    follow
    ;;
  follow) follow ;;
  stop) on all 'bash xrec_jax/launch/on_host.sh stop' ;;
esac
if [ -n "$delete" ]; then run "${resources[@]}" delete "$name" "${where[@]}" --force --quiet; fi
