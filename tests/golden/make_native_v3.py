"""Writes `native-v3-checksum.safetensors`, the artifact of format 3 that `test_artifact_format.py` loads.

`native-v1.safetensors`, `native-v2.safetensors` and `native-v3.safetensors` came from much the same lines, by a unipot that wrote
formats 1 and 2, and 3 without a checksum in the card; they cannot be made again. Run this (`python tests/golden/make_native_v3.py`)
only when the native backbone changes what it computes on purpose, and say so in the changelog; for a change of the format keep this
file and add the next one.
"""

from pathlib import Path

import numpy as np
import torch

from unipot.models import CompositionReference, CoreRepulsion, Head, HeadBank, Potential, build_backbone
from unipot.structure import Structure
from unipot.zoo import save_artifact


def main() -> None:
    torch.manual_seed(0)
    sizes = {"n_channels": 4, "n_vector_channels": 2, "n_layers": 2, "n_radial": 4, "n_radial_hidden": 4, "n_shapes": [2, 2, 2]}
    states = {"charge": True, "spin": True, "trained_charges": [-1, 1], "trained_spins": [0, 1, 2]}
    backbone = build_backbone("native", {"cutoff": 4.0, **sizes, **states})
    known = np.isin(np.arange(119), [1, 6, 8, 29])
    heads = HeadBank()
    for name, level, kind in (("metal-pbe", "PBE", "total"), ("slab-rpbe", "RPBE", "adsorption")):
        reference = CompositionReference(np.where(known, -13.6 * np.arange(119.0), 0.0), known)
        heads.add(Head(name, level_of_theory=level, energy_kind=kind, n_channels=4, n_hidden=4, scale=0.5, reference=reference))
    water = {"atomic_numbers": [8, 1, 1], "positions": [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]}
    golden = [
        Structure(**water, id="water"),
        Structure(**water, total_charge=-1, spin_multiplicity=2, id="water anion"),
        Structure(atomic_numbers=[29, 8], positions=[[0, 0, 0], [0.7, 0, 0]], id="core"),  # Å; the repulsion ends at 1.09
    ]
    potential, card = Potential(backbone, heads, CoreRepulsion(0.55)), {"name": "golden artifact of format 3", "licence": "CC0-1.0"}
    save_artifact(Path(__file__).with_name("native-v3-checksum.safetensors"), potential, golden=golden, card=card)


if __name__ == "__main__":
    main()
