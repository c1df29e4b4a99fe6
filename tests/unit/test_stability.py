"""Stability runs: what counts as failure, and that an interruption leaves no trace."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import write

from unipot.calculator import UnipotCalculator
from unipot.simulate import PairDistribution, Stage, StageRun
from unipot.simulate.stability import closest_pair_ratio, kept_bonds, reference_distribution
from unipot.zoo import save_artifact


@pytest.fixture
def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    return atoms


def stage(**options) -> Stage:
    return Stage(**{"name": "run", "duration": 0.1, "timestep": 2.0, "interval": 10, "pairs": (("Cu", "Cu"),), **options})


@pytest.mark.parametrize("ensemble", ["nvt", "nve"])
def test_an_interrupted_run_equals_an_uninterrupted_one(copper, tmp_path, ensemble):
    copper.set_constraint(FixAtoms([0]))
    whole = StageRun(copper, stage(ensemble=ensemble), tmp_path / "whole")
    whole.run()
    for _ in range(20):
        part = StageRun(copper, stage(ensemble=ensemble), tmp_path / "parts")
        if part.is_done:
            break
        part.run(seconds=1e-9)  # one look at a time
    assert part.record.n_steps == 50 and part.record.times == whole.record.times and len(part.record.times) == 6
    assert np.array_equal(part.atoms.positions, whole.atoms.positions)
    assert np.array_equal(part.atoms.get_momenta(), whole.atoms.get_momenta())
    assert part.record.total_energy == whole.record.total_energy
    assert np.array_equal(part.distributions[0].values, whole.distributions[0].values)


def test_model_of_our_own_is_continued_to_the_same_bit(make_potential, tmp_path):
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    results = []
    for parts in (1, 3):
        atoms.calc = UnipotCalculator(make_potential())
        for _ in range(parts):
            run = StageRun(atoms, stage(duration=0.06, timestep=1.0), tmp_path / str(parts))
            run.run(seconds=None if parts == 1 else 1e-9)
            atoms.calc = UnipotCalculator(make_potential())
        run.run()
        results.append(run.atoms.positions)
    assert np.array_equal(*results)


def test_a_healthy_run_has_no_failure_and_conserves_energy(copper, tmp_path):
    record = StageRun(copper, stage(ensemble="nve"), tmp_path).run()
    assert record.failure is None and record.times[-1] == pytest.approx(0.1)
    assert abs(record.drift) < 5e-3 and min(record.closest) > 0.8 and record.mean_temperature() > 50


def test_a_temperature_explosion_is_a_failure(copper, tmp_path):
    copper.set_momenta(np.random.default_rng(0).normal(scale=60, size=(32, 3)))
    record = StageRun(copper, stage(ensemble="nve", timestep=0.5), tmp_path).run()
    assert record.failure is not None and "temperature" in record.failure and record.n_steps < 200


def test_atoms_that_meet_are_a_failure(tmp_path):
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.5]], momenta=[[0, 0, 3.0], [0, 0, -3.0]])
    atoms.calc = LennardJones(sigma=0.3, epsilon=0.001, rc=3.0)
    meeting = stage(ensemble="nve", pairs=(), timestep=1.0, interval=5, duration=0.3, max_temperature_ratio=1e9)
    record = StageRun(atoms, meeting, tmp_path).run()
    assert record.failure is not None and "of the sum of their covalent radii" in record.failure


def test_a_prediction_that_is_refused_is_a_failure_with_its_sentence(copper, tmp_path):
    class Broken(EMT):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            if abs(self.atoms.positions[0, 0]) > 0.02:
                raise ValueError("the prediction for Cu32 is not finite")

    copper.calc = Broken()
    record = StageRun(copper, stage(temperature=900.0), tmp_path).run()
    assert record.failure is not None and record.failure.endswith("the prediction for Cu32 is not finite")
    copper.calc = Broken()
    assert StageRun(copper, stage(temperature=900.0), tmp_path).is_done


def test_a_longer_duration_goes_on_where_the_run_ended(copper, tmp_path):
    longer = StageRun(copper, stage(duration=0.1), tmp_path / "whole")
    longer.run()
    StageRun(copper, stage(duration=0.06), tmp_path / "parts").run()
    part = StageRun(copper, stage(duration=0.1), tmp_path / "parts")
    assert not part.is_done and part.record.n_steps == 30
    part.run()
    assert np.array_equal(part.atoms.positions, longer.atoms.positions) and part.record.n_steps == 50


def test_other_settings_do_not_continue_a_run(copper, tmp_path):
    StageRun(copper, stage(), tmp_path).run(seconds=1e-9)
    with pytest.raises(ValueError, match="belongs to a stage with other settings"):
        StageRun(copper, stage(temperature=400.0), tmp_path)


@pytest.mark.parametrize("options", [{"ensemble": "npt"}, {"duration": 0.0}, {"timestep": -1.0}, {"temperature": 0.0}])
def test_a_stage_that_cannot_run_is_refused(options):
    with pytest.raises(ValueError, match=f"stage 'run': {next(iter(options))}"):
        stage(**options)


def test_closest_pair_is_relative_to_the_radii():
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.97]])
    assert closest_pair_ratio(atoms) == pytest.approx(0.97 / (0.66 + 0.31))
    assert closest_pair_ratio(Atoms("O")) == np.inf
    atoms.positions[0, 0] = np.nan
    assert np.isnan(closest_pair_ratio(atoms))


def test_kept_bonds_count_what_melted_and_what_reacted(copper):
    assert kept_bonds(copper, copper) == 1.0
    vibrated, moved = copper.copy(), copper.copy()
    vibrated.rattle(0.1, seed=0)
    assert kept_bonds(copper, vibrated) == 1.0
    moved.positions[0] += 10.0  # of 32 atoms with 12 bonds one leaves its place
    assert kept_bonds(copper, moved) == pytest.approx(1 - 1 / 16)
    assert kept_bonds(Atoms("O"), Atoms("O")) == 1.0


def test_a_whole_structure_may_drift_out_of_its_cell_with_its_bonds(copper):
    drifted = copper.copy()
    drifted.positions += 3 * drifted.cell.array[0]
    assert kept_bonds(copper, drifted) == 1.0


def test_pair_distribution_of_random_points_is_one():
    rng = np.random.default_rng(0)
    frames = [Atoms("Ar150", positions=rng.uniform(0, 15, (150, 3)), cell=[15, 15, 15], pbc=True) for _ in range(20)]
    values = reference_distribution(frames, ("Ar", "Ar")).values
    assert values[40:].mean() == pytest.approx(1.0, abs=0.02)


def test_peak_of_a_crystal_is_its_bond_length():
    rng, frames = np.random.default_rng(0), []
    for _ in range(40):
        atoms = bulk("Cu", a=3.6, cubic=True) * (3, 3, 3)
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
        frames.append(atoms)
    distance, height = reference_distribution(frames, ("Cu", "Cu")).first_peak()
    assert distance == pytest.approx(3.6 / np.sqrt(2), abs=0.03) and height > 3


def test_two_elements_are_told_apart():
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    unlike, like = (PairDistribution(symbols=pair) for pair in (("Na", "Cl"), ("Na", "Na")))
    for distribution in (unlike, like):
        distribution.add(atoms)
    assert unlike.distances[np.flatnonzero(unlike.values)[0]] == pytest.approx(2.8, abs=0.05)
    assert like.distances[np.flatnonzero(like.values)[0]] == pytest.approx(5.6 / np.sqrt(2), abs=0.05)


def test_a_molecule_has_no_density():
    with pytest.raises(ValueError, match="a pair distribution needs three periodic axes"):
        PairDistribution(symbols=("O", "H")).add(molecule("H2O"))


@pytest.fixture
def script(monkeypatch):
    """scripts/stability.py as a module, and a function that runs it with arguments."""
    folder = Path(__file__).parents[2] / "scripts"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("stability_script", folder / "stability.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["stability.py", *map(str, arguments)])
        return module.main()

    return run


def test_stages_of_the_shipped_plan_can_run():
    plan = yaml.safe_load((Path(__file__).parents[2] / "scripts" / "stability.yaml").read_text())
    assert set(plan) == {"water", "slab", "crystal"}
    for system in plan.values():
        names = []
        for entry in system["stages"]:
            after = entry.pop("after", None)
            assert after is None or after in names
            names.append(Stage(**entry).name)
        assert len(set(names)) == len(names) and system["dimers"] and system["volume"]


def test_script_is_interrupted_goes_on_and_reports(script, make_potential, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNIPOT_REAL_DATA", str(tmp_path))
    save_artifact(tmp_path / "copper" / "best.safetensors", make_potential())
    write(tmp_path / "start.extxyz", bulk("Cu", cubic=True) * (2, 1, 1))
    stages = [
        {"name": "nvt", "duration": 0.02, "timestep": 1.0, "interval": 5, "pairs": [["Cu", "Cu"]]},
        {"name": "nve", "after": "nvt", "ensemble": "nve", "duration": 0.01, "timestep": 1.0, "interval": 5},
    ]
    system = {"checkpoint": "copper/best.safetensors", "structure": "start.extxyz", "index": "0", "reference": "start.extxyz",
              "stages": stages, "dimers": [["Cu", "Cu"]], "volume": True}  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"copper": system}))
    arguments = ["--plan", tmp_path / "plan.yaml", "--runs", tmp_path, "--output", tmp_path / "out", "--threads", "1"]
    assert script(*arguments, "--seconds", "1e-3") == 3
    assert script(*arguments) == 0
    assert script(*arguments, "--report") == 0
    found = json.loads((tmp_path / "out" / "stability.json").read_text())["systems"][0]
    assert [stage["state"] for stage in found["stages"]] == ["done", "done"]
    assert [stage["picoseconds"] for stage in found["stages"]] == [0.02, 0.01] and found["stages"][1]["drift_mev_per_atom_ps"] is not None
    assert len(found["scans"]) == 2 and all(scan["finite"] for scan in found["scans"])
    assert "| copper | 8 | nvt | 0.0200 |" in capsys.readouterr().out
    assert (tmp_path / "out" / "copper.svg").read_bytes().startswith(b"<?xml")
