# shellcheck shell=bash
# What the scripts for other machines share; sourced by them after setup.sh, not run.

dry_run=''

# need TOOL HINT...: fails where the tool is not installed; a dry run asks for none.
need() {
  if [ -n "$dry_run" ] || command -v "$1" >/dev/null; then return; fi
  fail "$1 was not found on PATH: ${*:2}"
}

# quoted WORD...: the words in single quotes, as any shell reads them back.
quoted() {
  local word words=()
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) words+=("'${word//\'/\'\\\'\'}'") ;;
      *) words+=("$word") ;;
    esac
  done
  printf '%s' "${words[*]}"
}

# run COMMAND...: says the command and runs it; in a dry run only says it.
run() {
  if [ -n "$dry_run" ]; then
    printf 'would run: %s\n' "$(quoted "$@")"
  else
    say "$(quoted "$@")"
    "$@"
  fi
}

# forwarded: the settings of this environment that are meant for the machines that train, as assignments.
forwarded() {
  local name
  for name in JAX_COMPILATION_CACHE_DIR LIBTPU_INIT_ARGS; do
    if [ -n "${!name:-}" ]; then printf '%s=%s ' "$name" "$(quoted "${!name}")"; fi
  done
}

# value OPTION ARGUMENT...: prints what follows the option.
value() {
  if [ $# -lt 2 ] || [ -z "$2" ]; then fail "$1 needs a value"; fi
  printf '%s\n' "$2"
}

# usage FILE: prints the comment at the top of a script.
usage() { sed -n '2,/^[^#]/ { s/^# \{0,1\}//p; }' "$1"; }

# shared_workdir ARGUMENT...: fails without a --workdir that all hosts see.
shared_workdir() {
  case " $* " in
    *' --workdir '* | *' --workdir='*) ;;
    *) fail 'give --workdir after "--": a folder that all hosts see, as --workdir=gs://BUCKET/RUN' ;;
  esac
}
