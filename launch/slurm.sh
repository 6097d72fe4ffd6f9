#!/usr/bin/env bash
# Trains on the GPUs of one or more nodes of a SLURM cluster, a process for each GPU.
#
#   bash launch/slurm.sh --nodes N --gpus G [OPTION...] -- --workdir DIR [ARGUMENT...]
#
#   --nodes N        nodes (1)
#   --gpus G         GPUs, and so processes, on each (8)
#   --job NAME       the job's name (xrec_jax); its log is NAME-<job>.log in the repository's root
#   --sbatch OPTION  another option of sbatch, as --sbatch --partition=gpu; as often as needed
#   --wait           wait for the end of the job, and end with its status
#   --dry_run        print what would be done, do nothing
#
# After `--` come the arguments of `python -m xrec_jax.train`. DIR and this repository lie on a file
# system that all nodes share. Two minutes before its time is up the job is told to save; a preempted
# job is queued again and goes on from its last checkpoint.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source=launch/tools.sh
source launch/tools.sh

nodes=1 gpus=8 job=xrec_jax options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --nodes) nodes=$(value "$@") && shift ;;
    --gpus) gpus=$(value "$@") && shift ;;
    --job) job=$(value "$@") && shift ;;
    --sbatch) options+=("$(value "$@")") && shift ;;
    --wait) options+=(--wait) ;;
    --dry_run) dry_run=yes ;;
    -h | --help) usage "${BASH_SOURCE[0]}" && exit ;;
    *) fail "unknown option \"$1\"; --help tells more. The program's own arguments come after \"--\"" ;;
  esac
  shift
done
if [ "${1:-}" = -- ]; then shift; else fail 'give "--" and the arguments of the run'; fi
shared_workdir "$@"
need sbatch 'run this on a node from which jobs are submitted'

# One process installs, then all start. SLURM sends its signals to the processes of `srun`: the program.
run sbatch --job-name="$job" --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" \
  --signal=TERM@120 --requeue --open-mode=append --output="$job-%j.log" --chdir="$PWD" "${options[@]}" \
  --wrap="export XREC_ACCELERATOR=${XREC_ACCELERATOR:-cuda} XREC_DISTRIBUTED=slurm
[ -z \"\$SLURM_CPUS_PER_TASK\" ] || export SRUN_CPUS_PER_TASK=\$SLURM_CPUS_PER_TASK  # srun does not take it over
bash -c 'source launch/setup.sh && set_up run' &&
exec srun --kill-on-bad-exit=1 bash launch/local.sh $(quoted "$@")"
