"""NaN as the stress of a molecule is a missing label; of a crystal it is refused, with a remedy that works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from unipot.data.labels import ASE_LABELS, LabelSource, SkippedItem, without_void_stress
from unipot.data.readers.ase_files import read_ase_file
from unipot.data.readers.huggingface import read_huggingface
from unipot.structure import Structure
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import LabelConfig, PrepareConfig

NAN = np.full(6, np.nan)


def extended_xyz(path: Path, stress: np.ndarray, pbc: bool | list[bool]) -> Path:
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [1.8, 1.8, 0]], cell=[3.6, 3.6, 12.0], pbc=pbc)
    atoms.calc = SinglePointCalculator(atoms, energy=-7.0, forces=np.zeros((2, 3)), stress=stress)
    write(path / "frames.extxyz", [atoms])
    return path / "frames.extxyz"


def parquet(path: Path, stress: np.ndarray, pbc: bool | list[bool]) -> Path:
    columns = {
        "atomic_numbers": [[29, 29]], "positions": [[[0.0, 0, 0], [1.8, 1.8, 0]]], "cell": [[[3.6, 0, 0], [0, 3.6, 0], [0, 0, 12.0]]],
        "pbc": [np.broadcast_to(pbc, 3).tolist()], "energy": [-7.0], "forces": [[[0.0, 0, 0]] * 2], "stress": [stress.tolist()],
    }  # fmt: skip
    pq.write_table(pa.table(columns), path / "frames.parquet")
    return path / "frames.parquet"


@pytest.mark.parametrize(("make", "read"), [(extended_xyz, read_ase_file), (parquet, read_huggingface)])
class TestFiles:
    @pytest.mark.parametrize("pbc", [False, [True, True, False]])
    def test_structures_without_three_periodic_axes_keep_their_other_labels(self, tmp_path, make, read, pbc):
        (structure,) = read(make(tmp_path, NAN, pbc), labels=ASE_LABELS)
        assert isinstance(structure, Structure) and sorted(structure.labels) == ["energy", "forces"]

    def test_crystals_are_refused(self, tmp_path, make, read):
        (item,) = read(make(tmp_path, NAN, True), labels=ASE_LABELS)
        assert isinstance(item, SkippedItem) and item.invalid and "stress contain" in item.reason

    def test_numbers_that_are_finite_stay(self, tmp_path, make, read):
        (structure,) = read(make(tmp_path, np.zeros(6), [True, True, False]), labels=ASE_LABELS)
        assert isinstance(structure, Structure) and "stress" in structure.labels


def test_a_virial_of_zeros_without_a_cell_is_no_label():
    sources = {"stress": LabelSource(key="virial", unit="eV", sign="compression", virial=True)}
    kept = without_void_stress({"energy": 1.0, "stress": np.zeros(9)}, sources, np.zeros(3, dtype=bool), 0.0)
    assert sorted(kept) == ["energy"]
    assert "stress" in without_void_stress({"stress": np.ones(9)}, sources, np.zeros(3, dtype=bool), 0.0)


def test_the_remedy_for_a_crystal_works(tmp_path):
    options = {"path": str(extended_xyz(tmp_path, NAN, True)), "name": "set", "out": str(tmp_path / "s.unipot"), "level_of_theory": "PBE"}
    with pytest.raises(ValueError, match=r"to read the file without stress, state the other labels alone, labels.energy.key=\.\.\. labels"):
        prepare(PrepareConfig(**options))
    others = {"energy": LabelConfig(key="energy", unit="eV"), "forces": LabelConfig(key="forces", unit="eV/A")}
    (structure,) = prepare(PrepareConfig(**options, labels=others))
    assert sorted(structure.labels) == ["energy", "forces"]
