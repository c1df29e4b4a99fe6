#!/usr/bin/env bash
# Sets up .venv-test (first time only) and runs ruff and the tests, in two processes (UNIPOT_TEST_PROCESSES says how many); arguments go to
# pytest: bash scripts/test.sh -k stress
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
make_environment .venv-test test,fairchem
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" WANDB_MODE=offline HF_HUB_OFFLINE=1

say "style: ruff check"
.venv-test/bin/ruff check .
say "tests: pytest"
PATH="$PWD/.venv-test/bin:$PATH" exec .venv-test/bin/python -m pytest -n "${UNIPOT_TEST_PROCESSES:-2}" --dist loadfile "$@"
