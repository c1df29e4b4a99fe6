"""Figures of `unipot inspect`: the periodic table's places, what is drawn of structures, no figure without data."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from unipot.data.overview.pair_distances import pair_distances
from unipot.reporting.periodic_table import periodic_table_figure, place_of, short_number
from unipot.reporting.store_plots import distribution_figure, overlap_figure, own_axis_figure, pair_matrix_figure, pair_violin_figure
from unipot.reporting.structure_images import arrange, draw_structure, structure_figure, view
from unipot.structure import SYMBOLS, Structure


def slab(normal_axis=2, shift=0.0):
    """Four layers of copper with 12 Å of vacuum along one axis, moved across the cell boundary by `shift` Å."""
    from ase.build import fcc111

    atoms = fcc111("Cu", (2, 2, 4), vacuum=6.0, periodic=True)
    atoms.positions += [0, 0, shift]
    order = np.roll(np.arange(3), normal_axis - 2)
    return Structure(
        atomic_numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array[order], pbc=True
    )  # fmt: skip


def test_every_element_has_a_place_of_its_own():
    places = {place_of(z) for z in range(1, 119)}
    assert len(places) == 118 and all(0 <= column <= 17 for _, column in places)


@pytest.mark.parametrize(
    ("symbol", "place"),
    [("H", (0, 0)), ("He", (0, 17)), ("B", (1, 12)), ("Sc", (3, 2)), ("Zn", (3, 11)), ("Ba", (5, 1)), ("La", (7.4, 2)), ("Yb", (7.4, 15)),
     ("Lu", (5, 2)), ("Hf", (5, 3)), ("Rn", (5, 17)), ("No", (8.4, 15)), ("Lr", (6, 2)), ("Og", (6, 17))],
)  # fmt: skip
def test_elements_stand_where_chemists_look_for_them(symbol, place):
    assert place_of(SYMBOLS.index(symbol)) == place


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (999, "999"), (1000, "1.0k"), (999_700, "1.0M"), (3 * 10**9, "3.0G")])
def test_short_numbers_have_at_most_three_digits(value, text):
    assert short_number(value) == text


def test_periodic_table_is_an_svg_and_needs_an_element():
    structures = np.zeros(119, dtype=int)
    with pytest.raises(ValueError, match="at least one element"):
        periodic_table_figure(structures, structures)
    structures[29] = 7
    assert b"<svg" in periodic_table_figure(structures, 4 * structures)[:1000]


def test_a_slab_is_wrapped_around_its_vacuum_and_seen_with_its_surface_up():
    for shift in (0.0, 9.0, 14.0):  # 9 Å puts the boundary of the cell into the metal
        structure = slab(shift=shift)
        _, positions, empty = arrange(structure)
        assert empty.tolist() == [False, False, True]
        assert np.ptp(positions[:, 2]) == pytest.approx(np.ptp(slab().positions[:, 2]), abs=1e-6)
        up = view(positions, structure.cell, structure.pbc, empty)[1]
        assert up @ [0, 0, 1] > 0.9


def test_views_are_rotations():
    molecules = [Structure(atomic_numbers=[1] * n, positions=[[0, 0, 0], [0, 0, 1]][:n]) for n in (1, 2)]
    for structure in (slab(), *molecules):
        _, positions, empty = arrange(structure)
        rotation = view(positions, structure.cell, structure.pbc, empty)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_molecules_are_seen_on_their_flat_side():
    benzene = np.stack([np.cos(np.arange(6)), np.zeros(6), np.sin(np.arange(6))], axis=1)  # in the xz plane
    rotation = view(benzene, np.zeros((3, 3)), np.zeros(3, bool), np.zeros(3, bool))
    assert abs(rotation[2] @ [0, 1, 0]) == pytest.approx(1.0)


def test_atoms_on_the_faces_of_a_small_crystal_are_drawn_on_all_of_them():
    structure = Structure(atomic_numbers=[55, 17], positions=[[0, 0, 0], [2, 2, 2]], cell=4 * np.eye(3), pbc=True)
    numbers, positions, _ = arrange(structure)
    assert (numbers == 55).sum() == 8 and (numbers == 17).sum() == 1
    assert positions.min() == pytest.approx(0, abs=1e-9) and positions.max() == pytest.approx(4)


@pytest.mark.parametrize("kind", ["molecule", "atom", "wire", "slab", "crystal"])
def test_every_kind_of_structure_lies_within_its_picture(kind):
    cell = np.diag([4.0, 5.0, 6.0])
    pbc = {"wire": [True, False, False], "crystal": [True] * 3}.get(kind, [False] * 3)
    n = 1 if kind == "atom" else 3
    structure = slab() if kind == "slab" else Structure(
        atomic_numbers=[8, 1, 1][:n], positions=np.eye(3)[:n] * 2, cell=cell if any(pbc) else np.zeros((3, 3)), pbc=pbc
    )  # fmt: skip
    axis = Figure().add_subplot()
    draw_structure(axis, structure)
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    spheres = [patch for patch in axis.patches if patch.get_linewidth() > 0]
    assert len(spheres) >= structure.n_atoms and (len(axis.lines) == 12) == any(structure.pbc)
    for sphere in spheres:
        (x, y), r = sphere.center, sphere.radius
        assert left < x - r and x + r < right and low < y - r and y + r < high


def test_structures_are_a_png_with_any_title():
    water = Structure(atomic_numbers=[8, 1, 1], positions=np.eye(3))
    assert structure_figure([water, slab()], ["a_b $ {", "é"]).startswith(b"\x89PNG")


def test_nothing_to_draw_is_said():
    lone = pair_distances([Structure(atomic_numbers=[2], positions=[[0, 0, 0]])])
    for draw in (
        lambda: distribution_figure([], ["a"]),
        lambda: own_axis_figure("x", [None], ["a"]),
        lambda: pair_matrix_figure(lone),
        lambda: pair_violin_figure(lone),
        lambda: structure_figure([], []),
    ):
        with pytest.raises(ValueError, match="needs at least one"):
            draw()


def test_pairs_of_one_element_and_overlaps_without_numbers_can_be_drawn():
    helium = pair_distances([Structure(atomic_numbers=[2, 2], positions=[[0, 0, 0], [0, 0, 3.0]])])
    for image in (pair_matrix_figure(helium), pair_violin_figure(helium), overlap_figure(np.full((2, 2), np.nan), ["a", "b"])):
        assert b"<svg" in image[:1000]
