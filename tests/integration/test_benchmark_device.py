"""`scripts/benchmark_device.py`, on the CPU, without the packages that a bare GPU node does not have."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_device.py"

#: neither `import` nor `find_spec` sees the packages
WITHOUT_PACKAGES = f"""
import importlib.machinery, runpy
found = importlib.machinery.PathFinder.find_spec
absent = {{"ase", "datasets", "fairchem", "hydra", "lmdb", "numba", "omegaconf", "rich", "wandb"}}
importlib.machinery.PathFinder.find_spec = lambda name, *rest: None if name in absent else found(name, *rest)
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


def test_steps_work_and_errors_are_measured_without_other_packages(tmp_path):
    words = "--device cpu --sizes native-small --systems molecules --precisions highest --seconds 0 --threads 1 --output".split()
    done = subprocess.run([sys.executable, "-c", WITHOUT_PACKAGES, *words, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "device.json").read_text())
    (result,) = found["results"]
    assert result["atoms"] == 640 and result["edges_per_atom"] > 10 and found["core_repulsion"] is False
    assert result["train"]["calls"] >= 5 and result["train"]["seconds"] > result["md"]["seconds"] > 0
    assert result["work"]["gflop"] > 0.1 and 0 < result["errors"]["of_forces"] < 1e-5
    assert "| native-small | molecules | highest |" in (tmp_path / "device.md").read_text()
