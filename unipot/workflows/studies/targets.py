"""Targets of a study as stores: frames to learn from and test sets, drawn once where none are given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from unipot.data.store import Store, StoreWriter
from unipot.errors import InputError
from unipot.finetune.search.hold_out import hold_out
from unipot.workflows.inputs.user_frames import open_frames
from unipot.workflows.settings.schema import UserDataConfig
from unipot.workflows.studies.config import StudyConfig, TargetConfig

#: of the test frames drawn for a target that has none: the same for every study, so that studies can be compared
_SEED_OF_TESTS = 0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target ready for its runs.

    Attributes:
        name: as configured.
        store: frames to learn from.
        labels: that must be there; None takes those of the store.
        tests: name -> store of test frames, at least one.
    """

    name: str
    store: Store
    labels: list[str] | None
    tests: dict[str, Store]

    def hashes(self) -> dict[str, str]:
        """Content of every store, for the stamp of a run."""
        return {name: store.metadata["content_hash"] for name, store in {"": self.store, **self.tests}.items()}

    def to_dict(self, max_test_frames: int) -> dict[str, Any]:
        """Facts for `study.json`."""
        tests = {name: {"frames": len(store), "used": min(len(store), max_test_frames)} for name, store in self.tests.items()}
        return {"frames_available": len(self.store), "level_of_theory": self.store.level_of_theory, "tests": tests}


def open_target(name: str, target: TargetConfig, config: StudyConfig, console: Console) -> Target:
    """Open or convert every file of a target, and draw test frames where no file is given.

    Raises:
        FileNotFoundError: a path is not there.
        ValueError: a file cannot be read, levels of theory differ, or test frames cannot be drawn.
    """
    cache = Path(config.output) / name / "data"
    options = UserDataConfig(
        level_of_theory=target.level_of_theory,
        energy_kind=target.energy_kind,
        labels=target.labels,
        format=target.format,
        group_key=target.group_key,
        sources=target.sources,
    )
    store = open_frames(target.data, options, name=name, cache=cache, console=console)
    tests = {}
    for test, path in target.tests.items():
        level, kind = store.level_of_theory, store.energy_kind
        tests[test] = open_frames(path, options, name=f"{name}-{test}", cache=cache, console=console, level=level, kind=kind)
    if not tests:
        store, tests["drawn"] = _drawn(name, store, target, config, cache, console)
    if len(store) < 2:
        raise InputError(f"targets.{name}: there is one frame to learn from in {target.data}; a learning curve needs at least 2")
    for test, found in tests.items():
        if len(found) > config.max_test_frames:
            said = f"{config.max_test_frames} of {len(found)} test frames, evenly spread"
            console.print(f"  {name}: {said} ({test})", highlight=False, markup=False)
    return Target(name=name, store=store, labels=target.labels, tests=tests)


def frames_of(wanted: Sequence[int], n_available: int) -> list[int]:
    """The wanted numbers of frames that a target has; larger ones become all of its frames, once."""
    found = [n for n in wanted if n <= n_available]
    return found if len(found) == len(wanted) or n_available in found else [*found, n_available]


def _drawn(
    name: str, store: Store, target: TargetConfig, config: StudyConfig, cache: Path, console: Console
) -> tuple[Store, Store]:
    """`store` without its test frames, and those."""
    fraction = config.test_fraction if target.test_fraction is None else target.test_fraction
    if target.n_test is not None:
        fraction = target.n_test / len(store)
    if not 0 < fraction <= 0.5:
        raise InputError(f"targets.{name}: {fraction:.3g} of the frames are to be test frames; give a part above 0, at most 0.5")
    elements = [frozenset(structure.atomic_numbers.tolist()) for structure in store]
    train, held, _ = hold_out(store.groups, elements, fraction, _SEED_OF_TESTS)
    if not len(held):
        raise InputError(f"targets.{name}: no test frames can be drawn from {len(store)} frames (too few, or of one group); give tests")
    n_groups = len(np.unique(store.groups[held]))
    said = f"no tests are given: {len(held)} of {len(store)} frames ({n_groups} groups) are test frames"
    console.print(f"  {name}: {said}", highlight=False, markup=False)
    return (_part(store, train, f"{name}-learn", cache), _part(store, held, f"{name}-drawn", cache))


def _part(store: Store, positions: np.ndarray, name: str, cache: Path) -> Store:
    """Some structures of a store as one of their own, made once."""
    what = f"{store.metadata['content_hash']}/{positions.tolist()}"
    path = cache / f"{name}-{hashlib.sha256(what.encode()).hexdigest()[:12]}.unipot"
    if not (path / "metadata.json").is_file():
        structures = [store[int(i)] for i in positions]
        labels = [label for label in store.labels if any(label in s.labels for s in structures)]
        with StoreWriter(
            path,
            name=name,
            level_of_theory=store.level_of_theory,
            labels=labels,
            energy_kind=store.energy_kind,
            provenance={"path": store.path.name},
        ) as writer:
            writer.extend(structures)
    return Store(path)
