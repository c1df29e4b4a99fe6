"""The benchmark against peers, its part that needs no other package: a worker process on a toy set, and its arithmetic."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def scripts_on_path():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


def _copper(n_frames: int, seed: int) -> list:
    frames = []
    for k in range(n_frames):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed + k)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    return frames


def test_a_race_trains_and_tests_in_a_worker_process(tmp_path):
    """One second of training on EMT copper leaves a smaller force error than predicting zero."""
    from benchmark_peers.driver import WorkerProcess
    from benchmark_peers.sets import RaceSet, write_set

    (tmp_path / "toy").mkdir()
    write(tmp_path / "toy" / "train.extxyz", _copper(20, seed=0))
    write(tmp_path / "toy" / "test.extxyz", test := _copper(5, seed=100))
    sizes = write_set(RaceSet(name="toy"), tmp_path, tmp_path / "files", cutoff=4.0)
    settings = {
        "model": "native-tiny", "elements": sizes["elements"], "mean_neighbors": sizes["edges_per_atom"], "cutoff": 4.0, "threads": 1,
        "seed": 0, "force_rms": sizes["force_rms"], "overall_force_rms": sizes["overall_force_rms"],
    }  # fmt: skip
    with WorkerProcess(sys.executable, "unipot_worker.py", log=tmp_path / "log", threads=1) as worker:
        worker.ask("build", settings=settings)
        tests = {"test": str(tmp_path / "files" / "test.npz")}
        run = worker.ask("fit", train=str(tmp_path / "files" / "train.npz"), tests=tests, cpu_seconds=1.0, seed=0, batch_size=5)
    silence = 1e3 * float(np.abs(np.concatenate([a.get_forces() for a in test])).mean())
    assert run["steps"] > 1
    assert run["errors"]["test"]["force_mae"] < silence


def test_workers_answer_a_wrong_request_with_an_error(tmp_path):
    from benchmark_peers.driver import WorkerError, WorkerProcess

    with (
        WorkerProcess(sys.executable, "unipot_worker.py", log=tmp_path / "log", threads=1) as worker,
        pytest.raises(WorkerError, match="native-huge"),
    ):
        worker.ask("build", settings={"model": "native-huge", "cutoff": 4.0, "threads": 1, "seed": 0, "overall_force_rms": 1.0})


def test_net_forces_set_a_floor():
    """Labels that all share one spurious force F leave every momentum-conserving model an error of F."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from benchmark_peers.sets import net_force_floor

    atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 4]])
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.array([[0.3, 0, 0.1], [0.3, 0, -0.1]]))
    assert net_force_floor([atoms]) == pytest.approx({"force_rmse": 300 / math.sqrt(3), "force_mae": 100.0})


def test_the_front_keeps_points_that_none_beats():
    from benchmark_front import front

    points = {"fast": (100.0, 2.0), "good": (10.0, 1.0), "beaten": (9.0, 1.5)}
    assert front(points) == ["good", "fast"]


def test_force_ratios_are_geometric_means_over_the_best():
    from benchmark_peers.accuracy_tables import force_ratios

    errors = {"a": (1.0, 8.0), "b": (2.0, 2.0)}
    names = ("mlearn_Li", "mlearn_Mo")
    runs = [
        {"label": label, "set": name, "errors": {"test": {"force_mae": value}}}
        for label, values in errors.items()
        for name, value in zip(names, values, strict=True)
    ]
    assert force_ratios(runs) == pytest.approx({"a": 2.0, "b": math.sqrt(2.0)})
