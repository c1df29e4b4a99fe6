"""Partly occupied sites are refused with their names; whole atoms are not."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from unipot.occupancy import require_whole_atoms
from unipot.structure import Structure
from unipot.workflows.inputs.structure_files import read_atoms

HEADER = """data_x
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""
VACANCIES = "Cu1 Cu 0 0 0 0.5\nCu2 Cu .5 .5 0 1\n"
ALLOY = "Cu1 Cu 0 0 0 0.7\nAu1 Au 0 0 0 0.3\nCu2 Cu .5 .5 0 1\n"
SPLIT = "O1a O 0 0 0 0.5\nO1b O 0.04 0 0 0.5\n"
WHOLE = "Cu1 Cu 0 0 0 1\nCu2 Cu .5 .5 0 1.0\n"


def cif(sites: str) -> Atoms:
    atoms = read(StringIO(HEADER + sites), format="cif")
    assert isinstance(atoms, Atoms)
    return atoms


@pytest.mark.parametrize(
    ("sites", "named"),
    [
        (VACANCIES, r"Cu 0\.5 \(atom 0, counted from 0\)"),
        (ALLOY, r"Cu 0\.7 \+ Au 0\.3 \(atom 0, counted from 0\)"),
        (SPLIT, r"O 0\.5 \(atoms 0, 1, counted from 0\)"),
    ],
)
def test_partly_occupied_sites_of_a_cif_are_refused_and_named(sites, named):
    with pytest.raises(ValueError, match=rf"x\.cif: sites are partly occupied, .*: {named}; give an ordered cell"):
        require_whole_atoms(cif(sites), "x.cif")


@pytest.mark.filterwarnings("ignore:crystal system:UserWarning")
def test_whole_sites_pass():
    assert Structure.from_ase(cif(WHOLE)).n_atoms == 2


def test_a_supercell_keeps_the_doubt():
    with pytest.raises(ValueError, match=r"Cu 0\.5 \(atoms 0, 2, counted from 0\)"):
        Structure.from_ase(cif(VACANCIES).repeat((2, 1, 1)))


def test_a_structure_file_for_relax_and_md_is_refused_before_any_work(tmp_path):
    (tmp_path / "half.cif").write_text(HEADER + VACANCIES)
    with pytest.raises(ValueError, match=r"half\.cif: sites are partly occupied"):
        read_atoms(str(tmp_path / "half.cif"), "-1")


@pytest.mark.parametrize(("shares", "refused"), [([1, 1, 1], False), ([0, 0, 0], False), ([1, 0.6, 0.4], True)])
def test_alternate_conformations_of_a_pdb_are_refused_and_placeholders_are_not(shares, refused):
    atoms = Atoms("CHH", positions=np.eye(3))
    atoms.set_array("occupancy", np.array(shares, dtype=float))
    if not refused:
        assert Structure.from_ase(atoms).n_atoms == 3
        return
    with pytest.raises(ValueError, match=r"structure 'a': sites are partly occupied.*occupancy 0\.4 \(atom 2.*occupancy 0\.6 \(atom 1"):
        Structure.from_ase(atoms, id="a")


@pytest.mark.parametrize("value", ["high", 0.5, {"0": "all"}, {"0": {"Cu": 1}, "1": {"Au": 0.0}}])
def test_other_things_under_the_same_key_are_left_alone(value):
    assert Structure.from_ase(Atoms("Cu", info={"occupancy": value})).n_atoms == 1
