"""Labels of a distillation as they come: finished parts lie beside the store that is being made.

A run that was killed while a method labelled structures does not ask for the finished ones again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from unipot.data.store import Store, StoreWriter
from unipot.structure import Structure


class KeptParts:
    """Parts of the store at `path`, in a folder beside it until the store is complete.

    Args:
        path: of the store.
        labels: that its structures may carry.
    """

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self.folder, self.labels = path.with_name(f".{path.name}.parts"), tuple(labels)

    def keep(self, number: int, structures: Sequence[Structure]) -> None:
        """Write part `number`; one without structures is not written, and another process may have been faster."""
        path = self._path(number)
        if not structures or path.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with StoreWriter(path, name="part", level_of_theory="of a part", labels=self.labels) as writer:
            writer.extend(structures)

    def find(self, number: int) -> list[Structure] | None:
        """The structures of part `number`, as they were; None where it is not there."""
        path = self._path(number)
        return list(Store(path)) if path.exists() else None

    def everything(self) -> list[Structure]:
        """The structures of all parts."""
        return [structure for path in sorted(self.folder.glob("*.unipot")) for structure in Store(path)]

    def forget(self) -> None:
        """Delete them, and what a killed writer left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.unipot"
