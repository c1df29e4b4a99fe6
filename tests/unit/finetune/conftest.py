import numpy as np
import pytest
import torch

from unipot.batch import collate
from unipot.models.heads import Head, HeadBank
from unipot.models.potential import Potential
from unipot.models.references import CompositionReference
from unipot.models.registry import build_backbone
from unipot.structure import Structure

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
METHANE = np.array([[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]], dtype=float)


def reference(elements, seed):
    values, known = np.zeros(119), np.zeros(119, dtype=bool)
    known[list(elements)] = True
    values[list(elements)] = np.random.default_rng(seed).uniform(-2000, -10, size=len(elements))
    return CompositionReference(values, known)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def potential(request):
    """Two heads: 'pbe' knows H, C, O, Si; 'rpbe' knows H and O only."""
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 16, "n_layers": 2})
    heads = HeadBank()
    for seed, (name, elements) in enumerate({"pbe": (1, 6, 8, 14), "rpbe": (1, 8)}.items()):
        heads.add(Head(name, level_of_theory=name.upper(), n_channels=backbone.n_channels, reference=reference(elements, seed), scale=1.7))
    return Potential(backbone, heads).to(request.param).eval()


def labelled(kind, k, rng, labels=("energy", "forces")):
    positions = WATER if kind == "water" else METHANE
    numbers = [8, 1, 1] if kind == "water" else [6, 1, 1, 1, 1]
    values = {"energy": rng.normal() - 100.0 * len(numbers), "forces": rng.normal(size=(len(numbers), 3))}
    moved = positions + 0.05 * rng.normal(size=positions.shape)
    return Structure(atomic_numbers=numbers, positions=moved, labels={p: values[p] for p in labels}, id=f"{kind}-{k}")


@pytest.fixture
def batches(potential):
    """Four waters and four methanes with random labels, in two batches."""
    rng = np.random.default_rng(0)
    frames = [labelled(kind, k, rng) for k in range(4) for kind in ("water", "methane")]
    return [collate(part, cutoff=potential.cutoff, dtype=potential.dtype) for part in (frames[:5], frames[5:])]


@pytest.fixture
def unlabelled_batches(potential):
    """Water frames with forces but without energies."""
    rng = np.random.default_rng(1)
    return [collate([labelled("water", k, rng, ("forces",)) for k in range(3)], cutoff=potential.cutoff, dtype=potential.dtype)]
