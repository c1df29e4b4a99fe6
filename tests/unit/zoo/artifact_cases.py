"""Artifacts of tests, and what a damaged disk, a slip or a forger would make of them."""

from __future__ import annotations

import json

import numpy as np
from safetensors.torch import load_file, save_file

from unipot.structure import Structure
from unipot.zoo import read_card
from unipot.zoo.card import CHECKSUM, checksum_of

FORMS = ("model.safetensors", "model-folder")
WATER = Structure(atomic_numbers=[8, 1, 1], positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], id="water")
CRYSTAL = Structure(atomic_numbers=[13, 29], positions=[[0, 0, 0], [1.5, 1.6, 1.4]], cell=3.1 * np.eye(3), pbc=[True] * 3, id="crystal")


def weights_of(path):
    return path / "model.safetensors" if path.is_dir() else path


def rewrite(path, *, tensors=None, card=None, sealed=True):
    """Replace tensors or card of an artifact behind unipot's back; the checksum of the card is made to fit, as a forger would."""
    tensors = load_file(weights_of(path)) if tensors is None else tensors
    card = read_card(path) if card is None else card
    card = {**card, CHECKSUM: checksum_of(card)} if sealed else card
    if path.is_dir():
        save_file(tensors, weights_of(path))
        (path / "card.json").write_text(json.dumps(card))
    else:
        save_file(tensors, path, metadata={"unipot_card": json.dumps(card)})
