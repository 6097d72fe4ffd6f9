#!/usr/bin/env bash
# Sets everything up once, then trains: by default the quickstart, into runs/quickstart.
#
#   bash launch/local.sh [--dry_run] [ARGUMENT...]      the arguments of `python -m xrec_jax.train`
#   bash launch/local.sh --config configs/expctr.py:ml-100k --config.seed=1
#
# Runs on the CPU, on a GPU, on several GPUs or on a TPU host, whichever the machine has; which one it
# got is the first line that the program prints. Without --workdir the run goes to runs/<name of the
# config>. Paths are relative to the repository's root. --dry_run prints what would be done.
# VENV and XREC_ACCELERATOR: see launch/README.md.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source=launch/flags.sh
source launch/flags.sh
# shellcheck source=launch/tools.sh
source launch/tools.sh

config='' workdir='' previous='' arguments=()
for argument in "$@"; do
  case $previous in
    --config | -config) config=$argument ;;
    --workdir | -workdir) workdir=$argument ;;
  esac
  case $argument in
    --config=* | -config=*) config=${argument#*=} ;;
    --workdir=* | -workdir=*) workdir=${argument#*=} ;;
    --dry_run) dry_run=yes && continue ;;
  esac
  arguments+=("$argument")
  previous=$argument
done

# Defaults go first: an override such as --config.seed=1 must come after --config.
defaults=()
if [ -z "$config" ]; then defaults+=(--config configs/quickstart.py); fi
if [ -z "$workdir" ]; then
  name=${config:-configs/quickstart.py}
  name=$(basename -- "${name%%.py*}")${name#*.py}  # configs/expctr.py:ml-100k: expctr:ml-100k
  defaults+=(--workdir "runs/${name//[^A-Za-z0-9._=-]/-}")
fi

if [ -n "$dry_run" ]; then
  accelerator=$(find_accelerator)
  if is_done run; then
    printf '%s is set up for %s\n' "$venv" "$accelerator"
  else
    printf 'would install into %s: requirements.txt, jax for %s, %s\n' "$venv" "$accelerator" "$encoder"
  fi
else
  set_up run
fi
set_flags "$accelerator"
set -- "$python" -m xrec_jax.train "${defaults[@]}" "${arguments[@]}"
if [ -n "$dry_run" ]; then run "$@"; else exec "$@"; fi
