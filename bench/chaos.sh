#!/bin/sh
# Makes each fault of bin/chaos.py three times on the server of `make up`, which it makes and removes unless it is there.
set -eu
cd "$(dirname "$0")/.."
there=$(test ! -d .local || echo yes)
make --no-print-directory up >&2
code=0
bin/chaos.py --rounds 3 || code=$?
test -n "$there" || make --no-print-directory down >&2
exit $code
