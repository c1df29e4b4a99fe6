"""Kernels that leave out of a list with a skin what lies beyond the cutoff; the arithmetic is that of `squared_distance`."""

from __future__ import annotations

from typing import Any

from numba import float32, float64, int64

from unipot.neighbors.compilation import array, compiled_for


def _signature(shift: Any) -> tuple[Any, ...]:
    return (array(float64, 2), array(float64, 2), array(int64, 2), array(shift, 2), float64, int64[::1])


@compiled_for(_signature(float64), _signature(float32))
def near_pairs(positions, lattice, edges, shifts, squared_cutoff, kept) -> Any:  # type: ignore[no-untyped-def]
    """Positions in the list of the pairs within the cutoff, into kept (n_candidates,); returns how many there are."""
    a, b, c = lattice[0], lattice[1], lattice[2]
    used = 0
    for e in range(edges.shape[1]):
        i, j = edges[0, e], edges[1, e]
        s0, s1, s2 = float64(shifts[e, 0]), float64(shifts[e, 1]), float64(shifts[e, 2])
        x = (((positions[j, 0] - positions[i, 0]) + s0 * a[0]) + s1 * b[0]) + s2 * c[0]
        y = (((positions[j, 1] - positions[i, 1]) + s0 * a[1]) + s1 * b[1]) + s2 * c[1]
        z = (((positions[j, 2] - positions[i, 2]) + s0 * a[2]) + s1 * b[2]) + s2 * c[2]
        kept[used] = e  # overwritten by the next one when it is not near
        used += x * x + y * y + z * z < squared_cutoff
    return used


def _taking(shift: Any, written: Any) -> tuple[Any, ...]:
    return (array(int64, 2), array(shift, 2), array(int64, 1), int64[:, ::1], written)


@compiled_for(_taking(float64, float64[:, ::1]), _taking(float32, float32[:, ::1]))
def take_pairs(edges, shifts, kept, edge_index, cell_shifts) -> None:  # type: ignore[no-untyped-def]
    """Copy the first n_edges of the kept pairs into edge_index (2, n_edges) and cell_shifts (n_edges, 3)."""
    for n in range(edge_index.shape[1]):
        e = kept[n]
        edge_index[0, n], edge_index[1, n] = edges[0, e], edges[1, e]
        cell_shifts[n, 0], cell_shifts[n, 1], cell_shifts[n, 2] = shifts[e, 0], shifts[e, 1], shifts[e, 2]
