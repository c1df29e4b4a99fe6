"""Writes `native-v1.safetensors`, the artifact of format 1 that `test_artifact_format.py` loads.

Run it again (`python tests/golden/make_native_v1.py`) only when the native backbone changes what it computes on purpose,
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
    for name, level in (("metal-pbe", "PBE"), ("molecule-wb97m", "wB97M-V")):
        reference = CompositionReference(np.where(known, -13.6 * np.arange(119.0), 0.0), known)
        heads.add(Head(name, level_of_theory=level, n_channels=4, n_hidden=4, scale=0.5, reference=reference))
    card = {"name": "golden artifact of format 1", "licence": "CC0-1.0"}
    save_artifact(Path(__file__).with_name("native-v1.safetensors"), Potential(backbone, heads), card=card)


if __name__ == "__main__":
    main()
