"""`ShardReview`: quarantine and census of the structures of one shard, made where the shard is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unipot.data.labels import SkippedItem
from unipot.data.quality.census import Census
from unipot.data.quality.consistency import ConsistencyCheck
from unipot.data.quality.measurements import Measurements, measure
from unipot.data.quality.quarantine import QuarantineEntry, Thresholds, screen
from unipot.data.unread_keys import UnreadKey
from unipot.structure import Structure

#: key in a shard's `extra` where its state is looked for by the finishing pass
REVIEW = "review"


class ShardReview:
    """Looks at every structure once, batch by batch; `state()` goes into the shard's `extra`.

    Args:
        name: of the dataset.
        level_of_theory: of its labels.
        thresholds: the limits.
        part: unit of work, for quarantine entries.

    Example:
        >>> review = ShardReview("set", "PBE", Thresholds(max_force=10.0), part="a.json")
        >>> calm = Structure(atomic_numbers=[1], positions=[[0, 0, 0]], id="calm", labels={"forces": [[0, 0, 0]]})
        >>> wild = Structure(atomic_numbers=[1], positions=[[0, 0, 0]], id="wild", labels={"forces": [[0, 0, 99]]})
        >>> kept, measurements = review.screen([calm, wild])
        >>> [structure.id for structure in kept], review.entries[0].reason
        (['calm'], 'max_force')
    """

    def __init__(self, name: str, level_of_theory: str, thresholds: Thresholds, part: str = "") -> None:
        self.thresholds, self.part = thresholds, part
        self.census = Census(name, level_of_theory, ConsistencyCheck(thresholds.max_pair_disagreement))
        self.entries: list[QuarantineEntry] = []

    def screen(self, structures: Sequence[Structure]) -> tuple[list[Structure], Measurements]:
        """Structures to write, and their measurements; the others are noted.

        Args:
            structures: a batch with ids, in the order of the source.
        """
        kept, measurements, entries = screen(structures, measure(structures), self.thresholds, self.part)
        self.census.add(kept, measurements)
        self.entries += entries
        return kept, measurements

    def skip(self, item: SkippedItem) -> None:
        """Count an item that is not a structure; a broken or unconverged one is noted for the quarantine file too."""
        self.census.skip(item)
        if item.invalid or item.quarantine:
            self.entries.append(QuarantineEntry.of_skipped(item, self.part))

    def unread(self, item: UnreadKey) -> None:
        """Note a key or column that nothing reads."""
        self.census.unread.setdefault(item.key, item)

    def state(self) -> dict[str, Any]:
        """JSON-able, for `ShardWriter(extra={REVIEW: …})`."""
        return {"census": self.census.state(), "quarantine": [entry.to_dict() for entry in self.entries]}
