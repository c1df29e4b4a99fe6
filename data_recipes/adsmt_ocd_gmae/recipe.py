"""AdsMT's sets of global minimum adsorption energies, one for each pair of surface and adsorbate.

The only published form is `<folder>/data.lmdb`, serialised graphs of PyTorch Geometric. Their fields are read as inert data;
nothing is unpickled. The structure is the adsorbed configuration of lowest energy (`gmae_pos`, `gmae_atom_numb`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unipot.data.labels import SkippedItem
from unipot.data.readers.adsmt import gmae_parts, read_gmae
from unipot.structure import Structure


def parts(raw: Path, *, folder: str) -> list[str]:
    """The one file."""
    return gmae_parts(raw, folder)


def structures(raw: Path, part: str, *, folder: str) -> Iterator[Structure | SkippedItem]:
    """Stream the records; one without the adsorbed configuration is passed over and counted."""
    return read_gmae(raw, part, folder)
