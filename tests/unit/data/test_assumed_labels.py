"""Labels that nobody stated: by their usual names in any frame of any file, never by a guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from unipot.data.readers.assumed_labels import assumed_labels, default_labels, keys_of


def xyz(folder: Path, *frames: tuple[str, str], name: str = "a.xyz") -> Path:
    """Frames of one hydrogen atom: comment line, and per-atom columns of three zeros."""
    blocks = []
    for comment, columns in frames:
        names = columns.split()
        properties = "species:S:1:pos:R:3" + "".join(f":{name}:R:3" for name in names)
        blocks.append(f"1\nProperties={properties} {comment}\nH 0 0 0{' 0 0 0' * len(names)}\n")
    (folder / name).write_text("".join(blocks))
    return folder / name


NINE = '"1 0 0 0 1 0 0 0 1"'


@pytest.mark.parametrize(
    ("comment", "columns", "keys"),
    [
        ("energy=1", "forces", {"energy": "energy", "forces": "forces"}),
        ("energy=1", "force", {"energy": "energy", "forces": "force"}),
        ("energy=1", "dft_forces", {"energy": "energy", "forces": "dft_forces"}),
        ("REF_energy=1", "REF_forces", {"energy": "REF_energy", "forces": "REF_forces"}),
        ("energy_dft=1", "forces_dft", {"energy": "energy_dft", "forces": "forces_dft"}),
        (f"energy=1 REF_virials={NINE}", "forces", {"energy": "energy", "forces": "forces", "stress": "REF_virials"}),
        (f"energy=1 virial={NINE} stress={NINE}", "forces", {"energy": "energy", "forces": "forces", "stress": "stress"}),
        ('energy=1 REF_stress="1 2 3 0 0 0"', "", {"energy": "energy", "stress": "REF_stress"}),
        ("total_energy=1", "", {"energy": "total_energy"}),
        # of two levels of theory the usual name counts, for energies and forces alike
        ("energy=1 REF_energy=2", "forces REF_forces", {"energy": "energy", "forces": "forces"}),
        # forces of another level than the energies are not taken with them
        ("energy=1 REF_energy=2", "REF_forces", {"energy": "energy"}),
        # predictions of a model, and what has the wrong number of columns, are no labels
        ("energy=1 MACE_energy=2", "MACE_forces", {"energy": "energy"}),
        ('energy=1 force="0 0 0"', "", {"energy": "energy"}),
    ],
)
def test_usual_names_are_understood(tmp_path, comment, columns, keys):
    found = assumed_labels([xyz(tmp_path, (comment, columns))]).labels
    assert {name: source.key for name, source in found.items()} == keys


def test_a_virial_is_of_energy_and_positive_under_compression(tmp_path):
    source = assumed_labels([xyz(tmp_path, (f"energy=1 virials={NINE}", ""))]).labels["stress"]
    assert (source.unit, source.sign, source.virial) == ("eV", "compression", True)


def test_labels_of_the_last_frame_of_the_last_file_count(tmp_path):
    first = xyz(tmp_path, *[("energy=1", "")] * 150)
    second = xyz(tmp_path, *[("energy=1", "")] * 150, (f"energy=1 stress={NINE}", "forces"), name="b.xyz")
    assert sorted(assumed_labels([first, second]).labels) == ["energy", "forces", "stress"]


def test_two_candidates_are_both_named_and_neither_is_taken(tmp_path):
    assumed = assumed_labels([xyz(tmp_path, ("energy=1", "REF_forces dft_forces"))])
    assert sorted(assumed.labels) == ["energy"]
    assert assumed.remarks == ("forces could be any of 'REF_forces', 'dft_forces' and is not read; state which",)


def test_energies_that_could_be_two_things_are_asked_for(tmp_path):
    file = xyz(tmp_path, ("REF_energy=1 dft_energy=2", "REF_forces dft_forces"))
    with pytest.raises(ValueError, match="no frame has the label key 'energy'; .*energy could be any of 'REF_energy', 'dft_energy'"):
        assumed_labels([file])


def test_an_absent_label_lists_the_keys_of_all_frames(tmp_path):
    file = xyz(tmp_path, *[("first=1", "")] * 150, ("late=1", "momenta"))
    with pytest.raises(ValueError, match="no frame has the label key 'energy'; keys in the file are: first, late, momenta"):
        assumed_labels([file])
    assert keys_of(file) == {"first", "late", "momenta"}


def test_a_damaged_file_is_refused_before_it_is_read(tmp_path):
    file = xyz(tmp_path, ("energy=1", ""), ("energy=1", ""))
    file.write_text(file.read_text() + "H 0 0 0\n")
    with pytest.raises(ValueError, match=r"a\.xyz, line 7: frame 2 cannot be read"):
        assumed_labels([file])


@pytest.mark.parametrize("name", ["a.traj", "a.db"])
def test_of_files_without_headers_the_usual_names_are_taken_until_they_are_read(tmp_path, name):
    atoms = Atoms("H")
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.zeros((1, 3)))
    write(tmp_path / name, atoms)
    assert sorted(assumed_labels([tmp_path / name]).labels) == ["energy", "forces", "stress"]
    assert sorted(default_labels(tmp_path / name)) == ["energy", "forces"]
    assert keys_of(tmp_path / name) == {"energy", "forces"}
