"""Everything in a model that can be compared with something, compared: `unipot models verify`."""

from __future__ import annotations

from pathlib import Path

from unipot.zoo.checks import checked, checksum_words
from unipot.zoo.compiled_package import SUFFIX, model_in_package, read_package_card
from unipot.zoo.loading import load_path
from unipot.zoo.locate import model_path


def verify_model(path: str | Path) -> list[tuple[str, str]]:
    """What was looked at in the model or package at `path`, and what was found; machine code is not run.

    Raises:
        FileNotFoundError: there is no model at `path`.
        ArtifactError: something in it is not what it must be; the sentence says what.
    """
    path = model_path(path)
    if path.suffix != SUFFIX:
        return checked(load_path(path), path)
    card = read_package_card(path)
    found = checked(model_in_package(path), path)
    code = f"for {card['device']}, not run: `unipot md` and a calculator compare its numbers with those of the model when they load it"
    return [("package", checksum_words(card)), *found, ("machine code", code)]
