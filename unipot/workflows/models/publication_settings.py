"""Words of a command as models and settings, and settings as what is said of a model that is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unipot.errors import InputError
from unipot.nearest import did_you_mean
from unipot.zoo.licences import Licence
from unipot.zoo.publish import Publication

#: setting -> what it says
SETTINGS = {
    "name": "model and size, small letters with hyphens",
    "version": "like 1.0",
    "to": "folder of the registry",
    "licence": "of the weights, best the SPDX name; by default the one in the card",
    "licence_url": "where its text is",
    "licence_terms": "what it asks for, in a sentence",
    "code_licence": "of the code, MIT by default",
    "citation": "how to cite the model",
    "summary": "one sentence",
    "url": "where the folder will be served",
}
_NEEDED = ("name", "version", "to")


def settings_in(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Words without a setting's key, and the settings `key=value`.

    Raises:
        ValueError: a setting stands twice, or a word is an option with dashes.
    """
    plain: list[str] = []
    settings: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if word.startswith("-"):
            raise InputError(f"option {word!r} is not known; settings are written key=value")
        if not sign or not key.isidentifier():
            plain.append(word)
        elif key in settings:
            raise InputError(f"{key}= stands twice; say it once")
        else:
            settings[key] = value
    return plain, settings


def publication_of(settings: Mapping[str, str]) -> Publication:
    """What is said of a model that is published.

    Raises:
        ValueError: a setting is not known, or one is missing.
    """
    if unknown := [key for key in settings if key not in SETTINGS]:
        raise InputError(f"setting {unknown[0]!r} is not known{did_you_mean(unknown[0], SETTINGS)}; settings are: {', '.join(SETTINGS)}")
    if missing := [key for key in _NEEDED if not settings.get(key)]:
        example = "name=mine-small version=1.0 to=shelf licence=CC-BY-4.0"
        raise InputError(f"{missing[0]}= is missing ({SETTINGS[missing[0]]}); for example {example}")
    if settings["to"].startswith("hf://"):
        raise InputError(f"to={settings['to']}: models are published to folders; upload the folder with the program of the hub")
    url = settings.get("url", "")
    if url and not url.startswith(("https://", "http://")):
        raise InputError(f"url={url}: the address where the folder will be served begins with https://")
    named = settings.get("licence")
    weights = Licence(name=named, url=settings.get("licence_url", ""), terms=settings.get("licence_terms", "")) if named else None
    if weights is None and (settings.get("licence_url") or settings.get("licence_terms")):
        raise InputError("licence_url= and licence_terms= say more of a licence; name it with licence=")
    return Publication(
        name=settings["name"], version=settings["version"], to=Path(settings["to"]).expanduser(), weights=weights,
        code=Licence(name=settings.get("code_licence") or "MIT"), citation=settings.get("citation", ""),
        summary=settings.get("summary", ""), url=url,
    )  # fmt: skip
