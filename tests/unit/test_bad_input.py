"""Bad input through the calculator, relaxation, dynamics, batched evaluation and the command line: one sentence, never forces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

from unipot.batch import collate
from unipot.calculator import UnipotCalculator
from unipot.cli import main
from unipot.simulate import molecular_dynamics, relax
from unipot.structure import Structure
from unipot.zoo import save_artifact


def changed(atoms: Atoms, name: str, index: tuple[int, ...], value: float) -> Atoms:
    array = atoms.cell.array if name == "cell" else atoms.arrays[name]
    array = array.copy()
    array[index] = value
    if name == "cell":
        atoms.set_cell(array)
    else:
        atoms.set_array(name, array)
    return atoms


COPPER, WATER = lambda: bulk("Cu", cubic=True), lambda: molecule("H2O")  # noqa: E731
#: what is wrong -> (atoms, sentence)
BAD: dict[str, tuple[Callable[[], Atoms], str]] = {
    "element 119": (lambda: Atoms(numbers=[119, 1], positions=[[0, 0, 0], [0, 0, 1]]), "atomic number 119 is outside 1..118"),
    "element 0": (lambda: Atoms(numbers=[0, 1], positions=[[0, 0, 0], [0, 0, 1]]), "structure 'HX': atomic number 0 is outside 1..118"),
    "no atoms": (lambda: Atoms(), "there are no atoms"),
    "no atoms in a cell": (lambda: Atoms(cell=[5, 5, 5], pbc=True), "there are no atoms"),
    "coincident atoms": (lambda: Atoms("OH2", positions=[[0, 0, 0], [0, 0, 1], [0, 0, 1]]), "structure 'H2O': atoms 1 and 2 lie 0"),
    "own image": (lambda: Atoms("Cu", cell=[3, 3, 5e-4], pbc=True), "structure 'Cu': atom 0 lies .* from its own periodic image"),
    "nan position": (lambda: changed(WATER(), "positions", (1, 2), np.nan), "structure 'H2O': positions contain 1 non-finite value"),
    "infinite position": (lambda: changed(WATER(), "positions", (0, 0), np.inf), "structure 'H2O': positions contain 1 non-finite value"),
    "nan cell": (lambda: changed(COPPER(), "cell", (1, 1), np.nan), "structure 'Cu4': cell contain 1 non-finite value"),
    "zero vector": (lambda: changed(COPPER(), "cell", (1,), 0.0), r"structure 'Cu4': pbc is .* but lattice vector\(s\) \[1\] of the cell"),
    "flat cell": (lambda: changed(COPPER(), "cell", (1,), (3.61, 0.0, 0.0)), "structure 'Cu4': the periodic lattice vectors are linearly"),
    "another unit": (lambda: Atoms("Cu4", scaled_positions=COPPER().get_scaled_positions(), cell=[0.02] * 3, pbc=True),
                     r"structure 'Cu4': 4 atoms have about .* pairs within the cutoff of .* GB"),
}  # fmt: skip
#: ASE can neither write nor read it
UNWRITABLE = ("element 119",)


@pytest.mark.parametrize("skin", [0.0, 0.5])
@pytest.mark.parametrize("what", BAD)
def test_calculator_says_what_is_wrong(make_potential, what, skin):
    make, message = BAD[what]
    atoms = make()
    atoms.calc = UnipotCalculator(make_potential(), skin=skin)
    with pytest.raises(ValueError, match=message):
        atoms.get_forces()


@pytest.mark.parametrize("what", BAD)
def test_calculator_says_it_in_the_middle_of_a_run_and_recovers(make_potential, what):
    make, message = BAD[what]
    calculator, good = UnipotCalculator(make_potential()), molecule("H2O")
    good.calc = calculator
    before = good.get_forces()
    bad = make()
    bad.calc = calculator
    with pytest.raises(ValueError, match=message):
        bad.get_forces()
    assert np.array_equal(good.get_forces(), before)


@pytest.mark.parametrize("run", [lambda atoms: relax(atoms, max_steps=2), lambda atoms: molecular_dynamics(atoms, n_steps=2)])
@pytest.mark.parametrize("what", BAD)
def test_relaxation_and_dynamics_say_it_before_their_first_step(make_potential, what, run):
    make, message = BAD[what]
    atoms = make()
    atoms.calc = UnipotCalculator(make_potential())
    with pytest.raises(ValueError, match=f"^(?!dynamics failed).*{message}"):
        run(atoms)


@pytest.mark.parametrize("what", BAD)
def test_batched_evaluation_says_which_one(make_potential, what):
    make, message = BAD[what]
    with pytest.raises(ValueError, match=message.replace("'H2O'", r"'H2O \(number 1\)'").replace("'Cu4'", r"'Cu4 \(number 1\)'")
                       .replace("'Cu'", r"'Cu \(number 1\)'").replace("'HX'", r"'HX \(number 1\)'")):  # fmt: skip
        UnipotCalculator(make_potential()).evaluate([molecule("H2O"), make()])


@pytest.mark.parametrize("verb", ["md", "relax"])
@pytest.mark.parametrize("what", [what for what in BAD if what not in UNWRITABLE])
def test_command_line_ends_with_one_sentence(make_potential, tmp_path, monkeypatch, capsys, what, verb):
    monkeypatch.chdir(tmp_path)
    save_artifact("model.safetensors", make_potential())
    write("bad.extxyz", BAD[what][0]())
    assert main([verb, "checkpoint=model.safetensors", "structure=bad.extxyz", f"{'n_steps' if verb == 'md' else 'max_steps'}=2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unipot: error: ") and error.count("\n") == 1
    assert not (tmp_path / "md.extxyz").exists() and not (tmp_path / "relaxed.extxyz").exists()


@pytest.mark.parametrize("verb", ["md", "relax"])
def test_negative_skin_is_one_sentence(make_potential, tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    save_artifact("model.safetensors", make_potential())
    write("in.extxyz", molecule("H2O"))
    assert main([verb, "checkpoint=model.safetensors", "structure=in.extxyz", "skin=-0.5"]) == 2
    assert "skin is -0.5; it must be a length in Å" in capsys.readouterr().err


def test_positions_that_float32_cannot_tell_apart_are_explained(make_potential):
    atoms = molecule("H2O")
    atoms.positions += 1e9
    atoms += Atoms("O", positions=[[-1e9] * 3])  # wherever the origin is put, some atoms are far from it
    atoms.calc = UnipotCalculator(make_potential(dtype=torch.float32))
    with pytest.raises(ValueError, match=r"cannot be told apart, positions as large as theirs are resolved to .* in float32; use float64"):
        atoms.get_forces()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layout_and_precision_of_arrays_do_not_matter(make_potential, dtype):
    atoms, results = bulk("Cu", cubic=True), []
    atoms.rattle(0.05, seed=0)
    atoms.positions = atoms.positions.astype(np.float32)  # so that both have the same numbers
    calculator = UnipotCalculator(make_potential(dtype=dtype))
    layouts = (np.ascontiguousarray, np.asfortranarray, lambda a: np.stack([a, a], axis=-1)[..., 0], lambda a: a.astype(np.float32))
    for layout in layouts:
        other = atoms.copy()
        other.arrays["positions"] = layout(atoms.positions)
        calculator.reset()
        calculator.calculate(other, ["energy", "forces"])
        results.append(calculator.results)
    assert not np.asfortranarray(atoms.positions).flags.c_contiguous
    assert all(np.array_equal(results[0][name], result[name]) for result in results for name in results[0])


def test_memory_is_predicted_before_neighbours_are_looked_for(make_potential, monkeypatch):
    monkeypatch.setattr("unipot.models.boundary.machine_memory", lambda: 10**9)
    monkeypatch.setattr("unipot.neighbors.verlet.batch_neighbor_list", lambda *_, **__: pytest.fail("the list was made"))
    calculator = UnipotCalculator(make_potential())
    atoms = Atoms("Cu4", scaled_positions=bulk("Cu", cubic=True).get_scaled_positions(), cell=[0.1] * 3, pbc=True)
    expected = r"4 atoms have about 8\.4e\+06 pairs within the cutoff of 5 Å, which need at least . GB .* more than the 1 GB of cpu"
    with pytest.raises(ValueError, match=expected):
        calculator.batch_of(atoms)


def test_a_batch_with_more_edges_than_memory_is_refused_by_the_potential(make_potential, monkeypatch):
    monkeypatch.setattr("unipot.models.boundary.machine_memory", lambda: 1000)
    monkeypatch.setattr("unipot.models.boundary._SMALL", 0)
    batch = collate([Structure.from_ase(molecule("H2O"), id="water")], cutoff=5.0, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"structure 'water': 3 atoms have about 6\.0e\+00 pairs .* more than the 0 GB of cpu"):
        make_potential()(batch)
