"""Structures drawn as spheres in their cell: molecules on their flat side, slabs from the side with the surface up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unipot.errors import InputError
from unipot.reporting.canvas import new_figure, png_bytes, styled
from unipot.structure import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Å of emptiness along a periodic axis that makes a slab, a wire or a molecule in a box
VACUUM = 6.0
#: up to this many atoms, atoms on the faces of the cell are drawn on all of them
_REPEAT_BELOW = 60
#: degrees that the view is turned by, around the vertical and then the horizontal axis
_TURN, _TILT = -22.0, 12.0
_SEGMENTS = 16
_EDGES = [(a, b) for a in range(8) for b in range(a) if bin(a ^ b).count("1") == 1]


@styled
def structure_figure(structures: Sequence[Structure], titles: Sequence[str], n_columns: int = 4) -> bytes:
    """A grid of structures; PNG.

    Args:
        structures: to draw.
        titles: two lines or so above each.
        n_columns: in a row.

    Raises:
        ValueError: there is no structure.
    """
    if not structures:
        raise InputError("a figure of structures needs at least one")
    n_rows = -(-len(structures) // n_columns)
    figure, axes = new_figure(len(structures), n_columns=n_columns, size=(10.4, 10.4 / n_columns * 1.13 * n_rows))
    for axis, structure, title in zip(axes, structures, titles, strict=True):
        draw_structure(axis, structure)
        axis.set_title(title, fontsize=8)
    return png_bytes(figure)


def draw_structure(axis: Axes, structure: Structure) -> None:
    """Draw on `axis`: covalent radii, jmol colours, the cell where an axis is periodic, what is nearer on top."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    numbers, positions, empty = arrange(structure)
    rotation = view(positions, structure.cell, structure.pbc, empty)
    corners = np.array([[k >> 2 & 1, k >> 1 & 1, k & 1] for k in range(8)]) @ structure.cell
    centre = positions.mean(axis=0) if not structure.pbc.any() else corners.mean(axis=0)
    placed, corners = (positions - centre) @ rotation.T, (corners - centre) @ rotation.T
    radii = covalent_radii[numbers]
    _draw_atoms(axis, placed, radii, jmol_colors[numbers])
    if structure.pbc.any():
        _draw_cell(axis, corners)
    outline = [placed[:, :2] - radii[:, None], placed[:, :2] + radii[:, None]]
    around = np.concatenate([*outline, corners[:, :2]] if structure.pbc.any() else outline)
    low, high = around.min(axis=0), around.max(axis=0)
    half, middle = 0.54 * max((high - low).max(), 4.0), (low + high) / 2
    axis.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect="equal")
    axis.axis("off")


def arrange(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms wrapped into the cell, the emptiness split over its ends, and those on faces repeated.

    Returns:
        (n,) atomic numbers, (n, 3) Å positions, (3,) bool periodic axes along which the cell is mostly empty.
    """
    empty = np.zeros(3, dtype=bool)
    if not structure.pbc.any():
        return structure.atomic_numbers, structure.positions, empty
    fractions = structure.positions @ np.linalg.inv(_full_cell(structure))
    heights = 1 / np.linalg.norm(np.linalg.inv(_full_cell(structure)), axis=0)
    numbers = structure.atomic_numbers
    for axis in np.flatnonzero(structure.pbc):
        wrapped = np.sort(fractions[:, axis] % 1.0)
        gaps = np.diff(wrapped, append=wrapped[0] + 1)
        widest = int(gaps.argmax())
        if gaps[widest] * heights[axis] > VACUUM:
            empty[axis] = True
            start = wrapped[widest] + gaps[widest] / 2  # the middle of the gap becomes the boundary
            fractions[:, axis] = (fractions[:, axis] - start) % 1.0
        else:
            fractions[:, axis] = (fractions[:, axis] + 1e-3) % 1.0 - 1e-3
    if structure.n_atoms <= _REPEAT_BELOW:
        numbers, fractions = _repeat_on_faces(numbers, fractions, structure.pbc & ~empty)
    return numbers, fractions @ _full_cell(structure), empty


def view(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """(3, 3) rotation; rows are the directions that point right, up and to the viewer.

    Args:
        positions: (n_atoms, 3) Å.
        cell: (3, 3) Å.
        pbc: (3,) bool.
        empty: (3,) bool, axes with vacuum.
    """
    flat = pbc & ~empty
    if not flat.any():  # a molecule, perhaps in a box: on its flat side
        _, _, axes = np.linalg.svd(positions - positions.mean(axis=0), full_matrices=True)
        return axes * [[1], [1], [np.linalg.det(axes)]]
    if flat.sum() == 2:  # a slab: surface normal up
        first, second = cell[flat]
        normal = np.cross(first, second)
        up, right = normal / np.linalg.norm(normal), first / np.linalg.norm(first)
    else:
        third = cell[2] if pbc[2] else np.array([0.0, 0.0, 1.0])
        up = third / np.linalg.norm(third)
        other = cell[0] if pbc[0] else np.array([1.0, 0.0, 0.0])
        right = other - (other @ up) * up
        right = right / np.linalg.norm(right) if np.linalg.norm(right) > 1e-6 else np.linalg.svd(up[None])[2][1]
    upright = np.stack([right, up, np.cross(right, up)])
    return _rotation_about(0, _TILT) @ _rotation_about(1, _TURN) @ upright


def _rotation_about(axis: int, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) if axis == 0 else np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _full_cell(structure: Structure) -> np.ndarray:
    """The cell with unit vectors in place of missing ones, so that it can be inverted."""
    from ase.geometry import complete_cell

    cell = np.where(structure.pbc[:, None], structure.cell, 0.0)
    return np.asarray(complete_cell(cell))


def _repeat_on_faces(numbers: np.ndarray, fractions: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for axis in np.flatnonzero(axes):
        on_face = np.abs(fractions[:, axis]) < 0.01
        shifted = fractions[on_face].copy()
        shifted[:, axis] += 1
        numbers, fractions = np.concatenate([numbers, numbers[on_face]]), np.concatenate([fractions, shifted])
    return numbers, fractions


def _draw_atoms(axis: Axes, placed: np.ndarray, radii: np.ndarray, colours: np.ndarray) -> None:
    from matplotlib.patches import Circle

    depth = placed[:, 2]
    span = max(float(np.ptp(depth)), 1e-6)
    for k in np.argsort(depth):
        haze = 0.35 * (depth.max() - depth[k]) / span  # what is farther away fades
        colour = (1 - haze) * colours[k] + haze
        order = 2 + float(depth[k] - depth.min()) / span
        x, y, r = placed[k, 0], placed[k, 1], radii[k]
        axis.add_patch(Circle((x, y), r, facecolor=colour, edgecolor=0.45 * colour, linewidth=0.6, zorder=order))
        light = Circle((x - 0.3 * r, y + 0.3 * r), 0.33 * r, facecolor=np.minimum(1.0, colour + 0.25), edgecolor="none", alpha=0.6)
        light.set_zorder(order + 1e-4)
        axis.add_patch(light)


def _draw_cell(axis: Axes, corners: np.ndarray) -> None:
    for a, b in _EDGES:
        ends = corners[[a, b]]
        # the three edges behind everything are dashed: they meet in the corner farthest from the viewer
        hidden = corners[:, 2].argmin() in (a, b)
        style = {"color": "#9aa3ad", "linewidth": 0.7, "zorder": 1} if hidden else {"color": "#3b4550", "linewidth": 0.8, "zorder": 4}
        axis.plot(ends[:, 0], ends[:, 1], linestyle=(0, (4, 3)) if hidden else "-", alpha=0.9, **style)
