"""Writes `native-v2.safetensors`, the artifact of format 2 that `test_artifact_format.py` loads.

`native-v1.safetensors` came from the same lines without kinds of energy, by a unipot that wrote format 1; it cannot be
made again. Run this (`python tests/golden/make_native_v2.py`) only when the native backbone changes what it computes on purpose,
and say so in the changelog; for a change of the format keep this file and add the next one.
"""

from pathlib import Path

import numpy as np
import torch

from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.zoo import save_artifact


def main() -> None:
    torch.manual_seed(0)
    sizes = {"n_channels": 4, "n_vector_channels": 2, "n_layers": 2, "n_radial": 4, "n_radial_hidden": 4, "n_shapes": [2, 2, 2]}
    backbone = build_backbone("native", {"cutoff": 4.0, **sizes})
    known = np.isin(np.arange(119), [1, 6, 8, 29])
    heads = HeadBank()
    for name, level, kind in (("metal-pbe", "PBE", "total"), ("slab-rpbe", "RPBE", "adsorption")):
        reference = CompositionReference(np.where(known, -13.6 * np.arange(119.0), 0.0), known)
        heads.add(Head(name, level_of_theory=level, energy_kind=kind, n_channels=4, n_hidden=4, scale=0.5, reference=reference))
    card = {"name": "golden artifact of format 2", "licence": "CC0-1.0"}
    save_artifact(Path(__file__).with_name("native-v2.safetensors"), Potential(backbone, heads), card=card)


if __name__ == "__main__":
    main()
