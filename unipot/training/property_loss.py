"""The loss of a property head: Huber on normalised residuals, each member on bootstrap weights of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unipot.batch import AtomBatch, Predictions
from unipot.errors import InputError
from unipot.models.property_heads import MAX_MEMBERS
from unipot.training.losses import labelled_mask


@dataclass(frozen=True, kw_only=True)
class ScalarTerm:
    """Residuals (prediction − label) / spread of one scalar property, averaged over the members and summed over structures.

    A member weighs structures by a Bayesian bootstrap (Rubin 1981): exponential weights of mean 1, a pure function of seed, id of
    the structure and member, so that every member sees its own version of the data in every pass, on any number of processes.

    Attributes:
        property: name.
        spread: divisor of the residual, in the unit of the property.
        weight: factor on this term in the step's loss.
        delta: where the residual turns from quadratic to linear, in spreads.
        seed: of the bootstrap.
    """

    property: str
    spread: float
    weight: float = 1.0
    delta: float = 1.0
    seed: int = 0
    kind: str = "huber"

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise InputError(f"properties.{self.property}.weight is {self.weight}; it must not be negative")

    def count(self, batch: AtomBatch) -> Tensor:
        """Structures with a value in `batch`: float64 scalar."""
        return labelled_mask(self.property, batch).sum().to(torch.float64)

    def __call__(self, predictions: Predictions, batch: AtomBatch) -> tuple[Tensor, Tensor]:
        """Sum of residuals (float64 scalar, connected to the graph even when nothing is labelled) and count.

        Raises:
            ValueError: a structure with a value has an element that the head was not fitted to.
        """
        chosen, members = labelled_mask(self.property, batch), predictions.members[self.property]
        if not bool(chosen.any()):
            return torch.nan_to_num(members).sum() * 0.0, chosen.sum().to(torch.float64)
        rows = torch.nonzero(chosen)[:, 0]
        residual = (members[rows] - batch.labels[self.property][rows, None]) / self.spread
        if bool(torch.isnan(residual).any()):
            where = batch.ids[int(rows[torch.isnan(residual).any(dim=1)][0])]
            raise InputError(f"structure {where!r} has a value of {self.property!r}, but elements that its head was not fitted to")
        losses = torch.nn.functional.smooth_l1_loss(residual, torch.zeros_like(residual), reduction="none", beta=self.delta)
        if members.shape[1] > 1:
            weights = bootstrap_weights([batch.ids[k] for k in rows.tolist()], members.shape[1], self.seed)
            losses = losses * weights.to(losses.device)
        return losses.mean(dim=1).sum(), chosen.sum().to(torch.float64)


def bootstrap_weights(ids: Sequence[str], n_members: int, seed: int) -> Tensor:
    """(n_structures, n_members) float64 exponential weights of mean 1, the same wherever and whenever they are asked for."""
    salt = seed.to_bytes(8, "little", signed=True)
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=4 * MAX_MEMBERS, salt=salt).digest() for name in ids)
    numbers = np.frombuffer(digests, dtype="<u4").reshape(len(ids), MAX_MEMBERS)[:, :n_members]
    return torch.from_numpy(-np.log((numbers + 0.5) / 2.0**32))
