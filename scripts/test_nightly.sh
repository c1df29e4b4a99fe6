#!/usr/bin/env bash
# The tests that take minutes each, and the commands of all pages of docs/; arguments go to pytest. About half an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
export UNIPOT_RUN_DOCS=1
bash scripts/test.sh -m nightly "$@"
bash scripts/test.sh tests/test_docs.py "$@"
