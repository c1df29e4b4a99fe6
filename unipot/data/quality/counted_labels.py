"""Labels that are there and do not count: stress of structures not periodic along all axes, forces of fixed atoms.

Losses and metrics leave both out (`unipot.training.losses.labelled_mask`): a slab has no volume that a stress could refer to, and
many programs write zero for the force on an atom that they hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np

from unipot.structure import Structure


@dataclass(frozen=True)
class CountedLabels:
    """How many labels of some structures count.

    Attributes:
        n_stress: structures with a stress.
        n_void_stress: those of them that are not periodic along all axes.
        n_forces: atoms with a force.
        n_fixed: those of them that were fixed in the calculation.
        n_fixed_zero: those of them whose force is exactly zero, as after a constraint.
        whole: all structures were looked at, and not a sample of them.
    """

    n_stress: int = 0
    n_void_stress: int = 0
    n_forces: int = 0
    n_fixed: int = 0
    n_fixed_zero: int = 0
    whole: bool = True

    @classmethod
    def of(cls, structures: Iterable[Structure], whole: bool = True) -> CountedLabels:
        """Of structures one by one."""
        counts = np.zeros(5, dtype=np.int64)
        for structure in structures:
            if "stress" in structure.labels:
                counts[:2] += 1, not structure.pbc.all()
            if "forces" in structure.labels:
                forces = structure.labels["forces"][structure.fixed]
                counts[2:] += structure.n_atoms, len(forces), int((forces == 0).all(axis=1).sum())
        return cls(*counts.tolist(), whole=whole)

    @classmethod
    def together(cls, *parts: CountedLabels) -> CountedLabels:
        """Of several sets of structures as one."""
        sums = np.array([astuple(part)[:-1] for part in parts], dtype=np.int64).sum(axis=0)
        return cls(*sums.tolist(), whole=all(part.whole for part in parts))

    def without(self, other: CountedLabels) -> CountedLabels:
        """Of the structures that are not in `other`."""
        mine, theirs = astuple(self)[:-1], astuple(other)[:-1]
        return CountedLabels(*(a - b for a, b in zip(mine, theirs, strict=True)), whole=self.whole)

    @property
    def no_stress_counts(self) -> bool:
        return 0 < self.n_stress == self.n_void_stress

    @property
    def no_force_counts(self) -> bool:
        return 0 < self.n_forces == self.n_fixed

    def sentences(self, frozen_atoms: str = "exclude", hint: str = "loss.frozen_atoms=include counts them in training") -> list[str]:
        """What does not count, and why; nothing where everything does.

        Args:
            frozen_atoms: of the loss, `include` where forces of fixed atoms count.
            hint: what is said behind forces of fixed atoms that do not count.
        """
        found = []
        if self.n_void_stress:
            share = self._share(self.n_void_stress, self.n_stress, "structures with a stress")
            found.append(f"stress of {share} does not count: they are not periodic along all axes")
        zero = f"{self.n_fixed_zero / self.n_fixed:.0%} of their force labels are exactly zero" if self.n_fixed_zero else ""
        if self.n_fixed and frozen_atoms == "exclude":
            share = self._share(self.n_fixed, self.n_forces, "atoms")
            found.append(f"forces of {share} do not count: they were fixed{f', and {zero}' if zero else ''} ({hint})")
        elif zero:
            found.append(f"forces of fixed atoms count (loss.frozen_atoms=include), but {zero}, as after a constraint")
        return found

    def _share(self, part: int, all_of_them: int, what: str) -> str:
        if self.whole:
            return f"{part:,} of {all_of_them:,} {what}"
        return f"about {part / all_of_them:.0%} of the {what}"
