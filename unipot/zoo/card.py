"""The card of a model artifact: where it is stored, and reading it without building the model.

A card may be damaged, or a stranger's. Its size, depth and numbers have bounds that are looked at first, and a card that holds its own
SHA-256 (`CHECKSUM`, over everything else in it, the hash of the tensors included) is compared with it. Cards of earlier versions of
unipot have none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unipot.errors import InputError
from unipot.zoo.artifact_upgrade import FORMAT_VERSION, version_of
from unipot.zoo.card_shape import require_kinds
from unipot.zoo.pickled import is_pickled, refusal

FORMAT = "unipot-model"
#: of a folder artifact
CARD_FILE, WEIGHTS_FILE = "card.json", "model.safetensors"
#: key of the card in the metadata of a single file
METADATA_KEY = "unipot_card"
#: key of the card's own SHA-256
CHECKSUM = "card_sha256"
#: id of the golden structure that every card has that has a checksum
CLOSE = "golden-close"
#: of a card; those with a sample have a few millions
MAX_BYTES = 32_000_000
#: of lists and mappings inside each other
MAX_DEPTH = 32
#: characters of a number; more are no number of ours
_MAX_DIGITS = 40
_AGAIN = "download or copy the model again"


class ArtifactError(InputError):
    """A model artifact that cannot be trusted or understood."""


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of the artifact at `path`; no weights are read.

    Raises:
        FileNotFoundError: there is no artifact at `path`.
        ArtifactError: what is there is not a unipot artifact, is damaged, or is no card that could be read within bounds.
    """
    path = Path(path)
    weights_path(path)  # says what is missing
    try:
        card = card_of_text(_folder_card(path) if path.is_dir() else card_in_metadata(path))
        if card.get("format") != FORMAT:
            raise ArtifactError(f"the card does not say format {FORMAT!r}; this is not a unipot model")
        require_as_written(card)
        require_kinds(card)
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error.__cause__
    return card


def card_of_text(text: str) -> dict[str, Any]:
    """JSON as keys and values, within bounds.

    Raises:
        ArtifactError: it is too long or too deep, is not JSON, or has a number that is not finite.
    """
    if len(text) > MAX_BYTES:
        raise ArtifactError(f"the card has {len(text):,} characters, at most {MAX_BYTES:,} are read; {_AGAIN}")
    try:
        card = json.loads(text, parse_int=_whole_number, parse_float=_number, parse_constant=_number)
        depth = _depth(card)
    except RecursionError:
        card, depth = None, math.inf
    except ValueError as error:
        raise ArtifactError(f"the card is not valid JSON ({error}); {_AGAIN}") from error
    if depth > MAX_DEPTH:
        raise ArtifactError(f"lists and mappings of the card lie inside each other more than {MAX_DEPTH} deep; {_AGAIN}")
    if not isinstance(card, dict):
        raise ArtifactError(f"the card is a {type(card).__name__}, not keys and values; this is not a unipot model")
    return card


def checksum_of(card: Mapping[str, Any]) -> str:
    """SHA-256 over everything in a card but its checksum, whatever the order of keys and the spaces between them."""
    content = {key: value for key, value in card.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def require_as_written(card: Mapping[str, Any]) -> None:
    """A card with a checksum has the contents that it was written with; one of an earlier unipot has none.

    Raises:
        ArtifactError: it has others, or has lost its checksum.
    """
    version = version_of(card)
    if version is not None and version > FORMAT_VERSION:  # a newer format may have another checksum
        return
    if CHECKSUM not in card:
        golden = card.get("golden")
        if isinstance(golden, list) and any(isinstance(entry, dict) and entry.get("id") == CLOSE for entry in golden):
            raise ArtifactError(f"the card has lost its SHA-256, which was written with the golden values that it has; {_AGAIN}")
        return
    if checksum_of(card) != card[CHECKSUM]:
        raise ArtifactError(
            f"the card was changed after it was written: its SHA-256 is {checksum_of(card)[:12]}…, it states {str(card[CHECKSUM])[:12]}…; "
            f"{_AGAIN}, or save it again with save_artifact if you meant to change it"
        )


def weights_path(path: Path) -> Path:
    """The `.safetensors` file of the artifact at `path`.

    Raises:
        FileNotFoundError: it, or the card of a folder, is not there.
        ArtifactError: `path` is a file of another kind.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; give a model: a .safetensors file, or a folder with {WEIGHTS_FILE} and {CARD_FILE}")
    if path.is_dir():
        for name in (CARD_FILE, WEIGHTS_FILE):
            if not (path / name).is_file():
                models = sorted(path.glob("*.safetensors"))
                hint = f"; did you mean {models[0]}?" if models else ""
                raise FileNotFoundError(f"{path} is a folder without {name}, so it is not a model{hint}")
        return path / WEIGHTS_FILE
    if not path.is_file():
        raise ArtifactError(f"{path} is not an ordinary file, so it is not a model")
    pickled = path.suffix != ".pt2" and is_pickled(path)
    if path.suffix != ".safetensors":
        hint = "; a package is loaded by unipot.zoo.compiled_package.load_package, or with trusted=true" if path.suffix == ".pt2" else ""
        hint = "; a .ckpt file is the state of a run, the model is best.safetensors in the run folder" if path.suffix == ".ckpt" else hint
        hint = f": {refusal(path)}" if pickled and not hint else hint
        raise ArtifactError(f"{path} is not a .safetensors file, so it is not a model{hint}")
    if pickled:
        raise ArtifactError(f"{path} is named as a .safetensors file and is none: {refusal(path)}")
    return path


def card_in_metadata(path: Path) -> str:
    """Text of the card inside the single-file artifact `path`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ArtifactError(f"the file is truncated or not a safetensors file ({error}); {_AGAIN}") from error
    if METADATA_KEY not in metadata:
        raise ArtifactError("the file holds tensors but no unipot card, so it is not a unipot model")
    return metadata[METADATA_KEY]


def _folder_card(path: Path) -> str:
    size = (path / CARD_FILE).stat().st_size
    if size > MAX_BYTES:
        raise ArtifactError(f"{CARD_FILE} has {size:,} bytes, at most {MAX_BYTES:,} are read; {_AGAIN}")
    try:
        return (path / CARD_FILE).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{CARD_FILE} is not text in UTF-8 ({error}); {_AGAIN}") from error


def _whole_number(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise InputError(f"a number has {len(text):,} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InputError(f"a number is {text[:_MAX_DIGITS]}, which is not finite")
    return value


def _depth(value: Any) -> int:
    """Of lists and mappings inside each other, without recursion."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        level = [item for part in level if isinstance(part, dict | list) for item in (part.values() if isinstance(part, dict) else part)]
        depth += 1
    return depth
