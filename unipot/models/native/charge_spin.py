"""Total charge and spin multiplicity as features of atoms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch
from unipot.errors import InputError
from unipot.structure import MAX_ATOMIC_NUMBER

#: |e|; charges of a data set are known to that
CHARGE_TOLERANCE = 0.01
_ROWS = MAX_ATOMIC_NUMBER + 1
#: mixed into the seed, so that charge and spin tables draw from a stream of their own
_STREAM = 0x5D1C_4A3F_9B27


@dataclass(frozen=True, kw_only=True)
class TrainedStates:
    """What a model has been trained on, and so may be asked for.

    Attributes:
        charges: (lowest, highest) total charge, |e|; None for no limit.
        multiplicities: 2S+1 of the training data, 0 for "not stated"; None for no limit.
    """

    charges: tuple[float, float] | None = None
    multiplicities: tuple[int, ...] | None = None

    @classmethod
    def from_hyperparameters(cls, charges: Sequence[float] | None, multiplicities: Sequence[int] | None) -> TrainedStates:
        """Raises:
        ValueError: charges are not two ascending numbers, or a multiplicity is negative.
        """
        if charges is not None and (len(charges) != 2 or not charges[0] <= charges[1]):
            raise InputError(f"native backbone: trained_charges is {list(charges)}; give the lowest and the highest, or null")
        if multiplicities is not None and (len(multiplicities) == 0 or min(multiplicities) < 0):
            raise InputError(f"native backbone: trained_spins is {list(multiplicities)}; give numbers 2S+1, 0 for not stated, or null")
        return cls(
            charges=None if charges is None else (float(charges[0]), float(charges[1])),
            multiplicities=None if multiplicities is None else tuple(sorted({int(m) for m in multiplicities})),
        )

    def with_more(self, charges: Collection[float], multiplicities: Collection[int]) -> TrainedStates:
        """The same and those given; where there is no limit, there is still none."""
        every = [*map(float, charges), *(self.charges or ())]
        return TrainedStates(
            charges=None if self.charges is None else (min(every), max(every)),
            multiplicities=None if self.multiplicities is None else tuple(sorted({*self.multiplicities, *multiplicities})),
        )

    def hyperparameters(self) -> dict[str, Any]:
        """JSON-able, as `NativeBackbone` takes them."""
        return {
            "trained_charges": None if self.charges is None else list(self.charges),
            "trained_spins": None if self.multiplicities is None else list(self.multiplicities),
        }

    def outside(self, charges: Collection[float], multiplicities: Collection[int]) -> list[str]:
        """Those that were not trained, in words."""
        low, high = self.charges or (-float("inf"), float("inf"))
        strange = [q for q in sorted(charges) if not low - CHARGE_TOLERANCE <= q <= high + CHARGE_TOLERANCE]
        unknown = [m for m in sorted(multiplicities) if self.multiplicities is not None and m not in self.multiplicities]
        return [*(f"total charge {q:g}" for q in strange), *(f"spin multiplicity {multiplicity_in_words(m)}" for m in unknown)]

    def typical(self) -> tuple[float, int | None]:
        """A total charge and spin multiplicity that may be asked for: neutral and not stated if possible."""
        low, high = self.charges or (0.0, 0.0)
        stated = self.multiplicities is not None and 0 not in self.multiplicities
        return min(max(0.0, low), high), min(self.multiplicities) if stated else None

    def require(self, batch: AtomBatch) -> None:
        """Raises:
        ValueError: a charge or multiplicity of the batch lies outside; nothing is clamped.
        """
        unknown = torch.zeros(batch.n_structures, dtype=torch.bool, device=batch.total_charge.device)
        if self.charges is not None:
            low, high = self.charges
            unknown = unknown | (batch.total_charge < low - CHARGE_TOLERANCE) | (batch.total_charge > high + CHARGE_TOLERANCE)
        if self.multiplicities is not None:
            unknown = unknown | ~torch.isin(batch.spin_multiplicity, batch.spin_multiplicity.new_tensor(self.multiplicities))
        if bool(unknown.any()):
            raise InputError(self._sentence(batch, int(torch.nonzero(unknown)[0, 0])))

    def _sentence(self, batch: AtomBatch, structure: int) -> str:
        name = f"structure {batch.ids[structure]!r}" if structure < len(batch.ids) else f"structure {structure} of the batch"
        charge, spin = float(batch.total_charge[structure]), int(batch.spin_multiplicity[structure])
        trained = []
        if self.charges is not None:
            trained.append(f"charges from {self.charges[0]:g} to {self.charges[1]:g}")
        if self.multiplicities is not None:
            trained.append(f"spin multiplicities {', '.join(map(multiplicity_in_words, self.multiplicities))}")
        return (
            f"{name}: total charge {charge:g}, spin multiplicity {multiplicity_in_words(spin)}; this model was trained on "
            f"{' and '.join(trained)} only; state one of these (atoms.info['total_charge'], atoms.info['spin_multiplicity']), "
            "or fine-tune on such structures"
        )


def multiplicity_in_words(multiplicity: int) -> str:
    """The number, or "not stated" for 0."""
    return str(multiplicity) if multiplicity else "not stated"


class ChargeSpinEmbedding(nn.Module):
    """A vector per atom that tells the charge and spin of its structure; zero for charge 0 and for a spin that is not stated.

        c_i = w_i q V[sign q, z_i] + w'_i (2S) U[z_i] + T[z_i] (the last two only if the spin is stated),
        w_i = softplus(a[sign q, z_i]) / Σ_j softplus(a[sign q, z_j]),  w'_i likewise

    The charge and the number 2S of unpaired electrons are dealt out over the atoms in shares that add up to one and
    depend on the elements (after SpookyNet, Unke et al. 2021, with shares by element only). So

    * n cells with charge n·q are n times one cell with charge q, exactly;
    * a charge q in an ever larger neutral cell changes every atom by O(1/n_atoms) and the energy by a finite q·μ, the
      part of an ionisation energy that is not seen in the geometry, instead of by an amount that grows with the cell;
    * where in a structure the charge sits is for the message passing to find out from the geometry: two fragments far
      apart that share one charge are not a sum of two calculations, since the shares say nothing of who has it.

    A stated singlet differs from a spin that is not stated by T, zero at initialisation. Everything is a constant of the
    geometry: invariant, smooth, and without a force of its own.

    Args:
        n_channels: length of the vector.
        charge: whether the total charge is read.
        spin: whether the spin multiplicity is read.
    """

    def __init__(self, n_channels: int, *, charge: bool, spin: bool) -> None:
        super().__init__()
        # a stream of its own, so that the other weights of a model are the same with and without
        # (and not the stream that the embedding was just drawn from)
        generator = torch.Generator().manual_seed((torch.initial_seed() ^ _STREAM) % 2**63)
        draw = lambda *shape: nn.Parameter(torch.randn(*shape, generator=generator))  # noqa: E731
        self.charge, self.spin = charge, spin
        if charge:
            self.charge_share = nn.Parameter(torch.zeros(2, _ROWS))
            self.charge_value = draw(2, _ROWS, n_channels)
        if spin:
            self.spin_share = nn.Parameter(torch.zeros(_ROWS))
            self.spin_value = draw(_ROWS, n_channels)
            self.spin_stated = nn.Parameter(torch.zeros(_ROWS, n_channels))

    def forward(self, batch: AtomBatch) -> Tensor:
        """(n_atoms, n_channels)"""
        parts = []
        if self.charge:
            charge = batch.total_charge[batch.structure_index]
            own = ((charge < 0).long(), batch.atomic_numbers)
            parts.append(self._dealt_out(batch, charge, self.charge_share[own])[:, None] * self.charge_value[own])
        if self.spin:
            multiplicity = batch.spin_multiplicity[batch.structure_index]
            unpaired = (multiplicity - 1).clamp(min=0).to(batch.positions.dtype)
            shares = self._dealt_out(batch, unpaired, self.spin_share[batch.atomic_numbers])
            parts.append(shares[:, None] * self.spin_value[batch.atomic_numbers])
            parts.append((multiplicity > 0)[:, None] * self.spin_stated[batch.atomic_numbers])
        return sum(parts[1:], start=parts[0])

    def element_tables(self) -> dict[str, tuple[int, ...]]:
        """Parameter -> axis of its atomic numbers."""
        charge = {"charge_share": (1,), "charge_value": (1,)} if self.charge else {}
        return {**charge, **({"spin_share": (0,), "spin_value": (0,), "spin_stated": (0,)} if self.spin else {})}

    @staticmethod
    def _dealt_out(batch: AtomBatch, amount: Tensor, affinity: Tensor) -> Tensor:
        """(n_atoms,) share of each atom in the amount of its structure, which every atom of it is given."""
        weight = nn.functional.softplus(affinity)
        return amount * weight / batch.sum_over_atoms(weight)[batch.structure_index]
