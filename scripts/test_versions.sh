#!/usr/bin/env bash
# Installs unipot as `pip install .` does, with the newest or the oldest versions that pyproject.toml admits, and runs a short selection of
# tests: prepare, pretrain, fine-tune, evaluate, storage. Only torch is pinned, for other builds of it bring gigabytes of CUDA.
#   bash scripts/test_versions.sh newest
#   bash scripts/test_versions.sh oldest
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
which=${1:-}
case "$which" in newest | oldest) ;; *) echo "usage: bash scripts/test_versions.sh newest|oldest" >&2; exit 2 ;; esac
folder=.venv-$which

say "set-up: the $which versions into $folder"
python=$(find_python)
"$python" -m venv --clear "$folder"
"$folder/bin/python" -m pip install --quiet --progress-bar off packaging
"$folder/bin/python" scripts/version_limits.py "$which" >"$folder/limits.txt"
"$folder/bin/python" -m pip install --progress-bar off -c "$folder/limits.txt" -e ".[compression]" pytest pytest-timeout hypothesis \
  >"$folder/install.log" 2>&1 || { tail -n 20 "$folder/install.log" >&2; echo "the $which versions cannot be installed together" >&2; exit 1; }
"$folder/bin/python" -m pip list --format=freeze | grep -i -E -f <("$folder/bin/python" scripts/version_limits.py names) | tr '\n' ' '
echo

say "tests with the $which versions"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" WANDB_MODE=offline HF_HUB_OFFLINE=1
# a warning of another version is no failure here
PATH="$PWD/$folder/bin:$PATH" exec "$folder/bin/python" -m pytest -q -p no:cacheprovider -W default \
  tests/unit/data/test_store.py tests/unit/data/test_damaged_stores.py tests/unit/data/test_export_parquet.py \
  "tests/integration/test_pretrain.py::test_everything_a_run_leaves_is_there" \
  "tests/integration/test_finetune.py::test_the_level_shift_is_found" \
  "tests/integration/test_finetune.py::test_evaluate_gives_the_logged_validation_numbers_exactly"
