#!/usr/bin/env bash
# Trains on a GKE cluster of TPUs, as an XPK workload.
#
#   bash launch/xpk.sh --cluster CLUSTER --workload NAME --type TYPE --image IMAGE [OPTION...] \
#     -- --workdir gs://BUCKET/RUN [ARGUMENT...]
#
#   --cluster CLUSTER --zone ZONE --project PROJECT
#   --workload NAME  the workload's name: lower case, digits and dashes
#   --type TYPE      of each slice: v5litepod-16, v5p-128, v6e-8, ...
#   --slices N       number of slices (then --config.mesh.dcn_data=N)
#   --image IMAGE    where the container lies: REGION-docker.pkg.dev/PROJECT/REPOSITORY/xrec_jax
#   --build          build the image of this working tree (launch/docker/Dockerfile) and push it first
#   --restarts N     start again after a preemption, at most N times (50)
#   --wait           wait for the end of the workload, and end with its status
#   --delete         delete the workload after that; without `--`, do only that
#   --dry_run        print what would be done, do nothing
#
# After `--` come the arguments of `python -m xrec_jax.train`.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source=launch/tools.sh
source launch/tools.sh

workload='' type='' slices=1 image='' build='' restarts=50 wait='' delete='' train='' where=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --cluster | --zone | --project) where+=("$1=$(value "$@")") && shift ;;
    --workload) workload=$(value "$@") && shift ;;
    --type) type=$(value "$@") && shift ;;
    --slices) slices=$(value "$@") && shift ;;
    --image) image=$(value "$@") && shift ;;
    --restarts) restarts=$(value "$@") && shift ;;
    --build) build=yes ;;
    --wait) wait=yes ;;
    --delete) delete=yes ;;
    --dry_run) dry_run=yes ;;
    -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    *) fail "unknown option \"$1\"; --help tells more. The program's own arguments come after \"--\"" ;;
  esac
  shift
done
if [ "${1:-}" = -- ]; then train=yes && shift; fi
case " ${where[*]} " in *' --cluster='*) ;; *) fail 'give --cluster' ;; esac
[ -n "$workload" ] || fail 'give --workload, a name for it'
if [ -z "$train$wait$delete" ]; then fail 'give "--" and the arguments of the run, or --wait or --delete'; fi
if [ -n "$train" ]; then
  [ -n "$type" ] || fail 'give --type, the kind of slice: v5litepod-16, v5p-128, ...'
  [ -n "$image" ] || fail 'give --image, where the container lies (--build makes it)'
  shared_workdir "$@"
  if [ -n "$delete" ]; then wait=yes; fi  # a workload under way is not deleted by the command that started it
fi
need xpk 'pip install xpk (https://github.com/AI-Hypercomputer/xpk), then: gcloud auth login'
if [ -n "$build" ]; then need docker 'install Docker, or build the image elsewhere and leave --build out'; fi

if [ -n "$train" ]; then
  if [ -n "$build" ]; then
    run docker build --file launch/docker/Dockerfile --build-arg ACCELERATOR=tpu --tag "$image" .
    run docker push "$image"
  fi
  run xpk workload create "${where[@]}" --workload="$workload" --tpu-type="$type" --num-slices="$slices" \
    --docker-image="$image" --max-restarts="$restarts" \
    --command="XREC_DISTRIBUTED=tpu $(forwarded)exec bash launch/local.sh $(quoted "$@")"
fi
if [ -n "$wait" ]; then run xpk workload list "${where[@]}" --wait-for-job-completion="$workload"; fi
if [ -n "$delete" ]; then run xpk workload delete "${where[@]}" --workload="$workload"; fi
