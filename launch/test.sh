#!/usr/bin/env bash
# Sets everything up once, the test tools too, then runs the tests, in a process a core (four at most: each takes
# two GiB). A file's tests stay together and files come in order: tests of one file share what they have compiled.
#
#   bash launch/test.sh [ARGUMENT...]       the arguments of pytest
#   bash launch/test.sh tests/rl -k gae
#
# Paths are relative to the repository's root. VENV and XREC_ACCELERATOR: see launch/README.md.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

set_up run tests
exec "$python" -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
