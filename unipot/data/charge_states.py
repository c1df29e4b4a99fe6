"""Which total charges and spin multiplicities a store holds: from its census, or else from the headers of its records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from unipot.data.storage.record import HEADER_DTYPE
from unipot.data.store import Store

#: records whose headers are read at a time
_CHUNK = 1 << 14
_HEADER_SIZE = HEADER_DTYPE.itemsize


@dataclass(frozen=True, kw_only=True)
class ChargeStates:
    """Structures by total charge and by spin multiplicity.

    Attributes:
        charges: total charge (|e|) -> structures.
        multiplicities: 2S+1, 0 where it is not stated -> structures.
    """

    charges: Counter[float] = field(default_factory=Counter)
    multiplicities: Counter[int] = field(default_factory=Counter)

    @property
    def n_structures(self) -> int:
        return self.charges.total()

    @property
    def n_charged(self) -> int:
        return self.n_structures - self.charges[0.0]

    @property
    def n_open_shell(self) -> int:
        """Structures that state unpaired electrons."""
        return sum(n for multiplicity, n in self.multiplicities.items() if multiplicity > 1)

    @classmethod
    def together(cls, parts: Iterable[ChargeStates]) -> ChargeStates:
        """The sum of several."""
        charges, multiplicities = Counter(), Counter()
        for part in parts:
            charges.update(part.charges)
            multiplicities.update(part.multiplicities)
        return cls(charges=charges, multiplicities=multiplicities)


def charge_states(store: Store, at_most: int | None = None) -> ChargeStates:
    """Count the states of a store; charges that the census knows are rounded to a hundredth.

    Args:
        store: the dataset.
        at_most: structures to look at, evenly spread, where there is no census of states (a store of an earlier unipot);
            None looks at all of them.
    """
    census = store.attachment("census.json")
    if census is not None and "total_charges" in (known := json.loads(census)):
        return ChargeStates(
            charges=Counter({float(charge): n for charge, n in known["total_charges"].items()}),
            multiplicities=Counter({int(spin): n for spin, n in known["spin_multiplicities"].items()}),
        )
    n = len(store) if at_most is None else min(at_most, len(store))
    chosen = np.linspace(0, len(store) - 1, n).astype(np.int64)
    found = ChargeStates()
    for start in range(0, n, _CHUNK):
        # one record at a time: a view of a record is valid until the next read
        headers = b"".join(bytes(store.record(index)[:_HEADER_SIZE]) for index in chosen[start : start + _CHUNK].tolist())
        table = np.frombuffer(headers, dtype=HEADER_DTYPE)
        found.charges.update(table["charge"].tolist())
        found.multiplicities.update(table["spin"].tolist())
    return found
