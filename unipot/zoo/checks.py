"""What must hold of a model beside what loading looks at: golden values of every head, error bars of the present weights, a sample."""

from __future__ import annotations

from pathlib import Path

from unipot.models.last_layer import is_stale
from unipot.zoo.card import CHECKSUM, ArtifactError
from unipot.zoo.golden import TOLERANCES, largest_deviation
from unipot.zoo.loading import Artifact
from unipot.zoo.sample import DIFFERENCES, SAMPLE, sample_of


def checked(artifact: Artifact, path: Path) -> list[tuple[str, str]]:
    """What was looked at in a model that was loaded from `path`, and what was found.

    Raises:
        ArtifactError: something in it is not what it must be; the sentence says what.
    """
    potential, card = artifact.potential, artifact.card
    covered = {entry["head"] for entry in card["golden"]}
    bare = [name for name in potential.head_names if name not in covered and bool(potential.heads[name].reference.known.any())]
    if bare and CHECKSUM in card:
        raise ArtifactError(f"{path}: the card has no golden value of head {bare[0]!r}; download or copy the model again")
    if stale := [name for name in potential.head_names if is_stale(potential, potential.heads[name])]:
        raise ArtifactError(f"{path}: the error bars of head {stale[0]!r} belong to other weights; fine-tune again for others")
    deviation, where = largest_deviation(potential, card["golden"])
    n_structures = {key: sum(len(item.structures) for item in sample_of(card, key)) for key in (SAMPLE, DIFFERENCES)}
    with_bars = [name for name in potential.head_names if potential.heads[name].posterior is not None]
    return [
        ("card", checksum_words(card)),
        ("tensors", f"{len(potential.state_dict())} with the SHA-256 in the card, {card['sha256'][:12]}…"),
        ("golden values", _golden(len(card["golden"]), len(covered), deviation, where, TOLERANCES[potential.dtype])),
        ("error bars", f"of head(s) {', '.join(with_bars)}: of the present weights" if with_bars else "none"),
        ("sample", f"{n_structures[SAMPLE]} structures and {n_structures[DIFFERENCES]} labelled differences can be read"),
    ]


def _golden(n: int, n_heads: int, deviation: float, where: str, tolerance: float) -> str:
    largest = f"the largest deviation is {deviation:.1e} ({where})" if where else "they are reproduced to the last digit"
    return f"{n} predictions of {n_heads} head(s): {largest}, allowed are {tolerance:.0e}"


def checksum_words(card: dict[str, object]) -> str:
    """What is known of the contents of a card."""
    if CHECKSUM in card:
        return f"as it was written, SHA-256 {str(card[CHECKSUM])[:12]}…"
    return "can be read, but has no SHA-256 of its own: unipot wrote none at its time, and a change would not be seen"
