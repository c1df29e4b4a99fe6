"""What a dataset that unipot exported says of itself: in the schema of its Parquet files, and on the hub in its card."""

from __future__ import annotations

import json
from pathlib import Path

from unipot.data.conversion.source_description import SourceDescription
from unipot.data.parquet.table import METADATA_KEY
from unipot.errors import InputError

HUB = "hf://"


def describe_dataset(path: str | Path) -> SourceDescription | None:
    """The description of an export; None for any other dataset.

    Args:
        path: a file, a folder, or `hf://owner/name`, whose dataset card is asked.

    Raises:
        ValueError: there is a description but it cannot be used, or a Parquet file is damaged.
    """
    if str(path).startswith(HUB):
        return _of_hub(str(path))
    root = Path(path)
    file = next(iter(sorted(root.rglob("*.parquet"))), None) if root.is_dir() else root
    return _of_file(file) if file is not None and file.suffix == ".parquet" and file.is_file() else None


def _of_file(file: Path) -> SourceDescription | None:
    import pyarrow
    import pyarrow.parquet

    try:
        text = (pyarrow.parquet.read_schema(file).metadata or {}).get(METADATA_KEY)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{file} cannot be read as a dataset ({reason}); the file may be cut short, fetch it again") from error
    return None if text is None else SourceDescription.from_json(text, str(file))


def _of_hub(path: str) -> SourceDescription | None:
    import huggingface_hub

    name = "/".join(path.removeprefix(HUB).split("/")[:2])
    try:
        content = huggingface_hub.DatasetCard.load(name).data.to_dict().get(METADATA_KEY.decode())
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError):
        return None  # no card, or no connection: opening the dataset says what is the matter
    return None if content is None else SourceDescription.from_json(json.dumps(content), path)
