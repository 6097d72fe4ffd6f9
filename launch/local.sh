#!/usr/bin/env bash
# Sets everything up once, then trains: by default the quickstart, into runs/quickstart.
#
#   bash launch/local.sh [ARGUMENT...]      the arguments of `python -m xrec_jax.train`
#   bash launch/local.sh --config configs/expctr.py:ml-100k --config.seed=1
#
# Without --workdir the run goes to runs/<name of the config>. Paths are relative to the
# repository's root. VENV and XREC_ACCELERATOR: see launch/README.md.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

config='' workdir='' previous=''
for argument in "$@"; do
  case $previous in
    --config | -config) config=$argument ;;
    --workdir | -workdir) workdir=$argument ;;
  esac
  case $argument in
    --config=* | -config=*) config=${argument#*=} ;;
    --workdir=* | -workdir=*) workdir=${argument#*=} ;;
  esac
  previous=$argument
done

# Defaults go first: an override such as --config.seed=1 must come after --config.
if [ -z "$workdir" ]; then
  name=${config:-configs/quickstart.py}
  name=$(basename -- "${name%%.py*}")${name#*.py}  # configs/expctr.py:ml-100k: expctr:ml-100k
  set -- --workdir "runs/${name//[^A-Za-z0-9._=-]/-}" "$@"
fi
if [ -z "$config" ]; then set -- --config configs/quickstart.py "$@"; fi

set_up run
exec "$python" -m xrec_jax.train "$@"
