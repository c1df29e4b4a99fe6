"""What a run was made from: its settings, the checkpoint it starts from and its data; and whether that has changed since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from unipot.errors import InputError
from unipot.training.sealed_file import sha256_of
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.settings.compose import to_yaml
from unipot.zoo.card import CARD_FILE, WEIGHTS_FILE
from unipot.zoo.locate import model_path

#: in a run folder, until there is a run state, which has it too
ORIGIN_FILE = "origin.json"

#: sections that may differ when a run is continued: they do not change which weights come out
_FREE = ("run", "resume", "cache", "logger")
#: the settings of section `trainer` that do: precision, when the weights are looked at, which are the best ones, when training ends
_BINDING_TRAINER = ("dtype", "matmul_precision", "validate_every", "patience", "selection")


#: what to do where a run may not be continued
INSTEAD = "choose another folder with run=..., or start over with resume=fresh, which moves what is there aside"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What decides which weights come out of a run.

    Attributes:
        settings: dotted name -> value, see `binding_settings`.
        checkpoint: SHA-256 of the checkpoint that the run starts from, None without one.
        data: dataset -> digest of its structures, see `data_digests`; empty before they are opened.
    """

    settings: dict[str, Any]
    checkpoint: str | None = None
    data: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Origin:
        """Inverse of `to_dict`."""
        return cls(settings=dict(content["settings"]), checkpoint=content["checkpoint"], data=dict(content["data"]))

    @classmethod
    def of(cls, config: Any) -> Origin:
        """What is known of a run before its data are opened."""
        return cls(settings=binding_settings(config), checkpoint=_checkpoint_digest(config))


def settings_fingerprint(config: Any) -> str:
    """A digest of what a file in a run folder was made with: every binding setting, and the content of the checkpoint."""
    made = [binding_settings(config), _checkpoint_digest(config)]
    return hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()


def binding_settings(config: Any) -> dict[str, Any]:
    """Dotted name -> value of every setting that a run may not change when it is continued."""
    return _binding(OmegaConf.to_container(OmegaConf.create(to_yaml(config))))


def data_digests(datasets: Sequence[OpenDataset]) -> dict[str, str]:
    """Dataset -> digest of its training and held-out structures with their labels."""
    return {item.spec.name: _data_digest(item) for item in datasets}


def refuse_other_settings(folder: Path, recorded: Any, config: Any) -> None:
    """Compare with the configuration that the run in `folder` was started with.

    Args:
        folder: of the run.
        recorded: its settings, nested or by dotted name; options that came later had their defaults.
        config: instance of the run's schema.

    Raises:
        ValueError: a binding setting differs.
    """
    defaults = _binding(OmegaConf.to_container(OmegaConf.structured(type(config))))
    old, new = {k: v for k, v in defaults.items() if v != MISSING} | _binding(recorded), binding_settings(config)
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            raise InputError(
                f"the run in {folder} was started with {key}={old.get(key)}, now it is {new.get(key)}; continue it as it was with "
                f"resume={folder}, or {INSTEAD}"
            )


def refuse_other_checkpoint(folder: Path, recorded: str | None, config: Any) -> None:
    """Compare the checkpoint that the run starts from.

    Raises:
        ValueError: its content differs.
    """
    digest = _checkpoint_digest(config)
    if recorded != digest:
        raise InputError(
            f"the checkpoint {_checkpoint(config)} is not the one that the run in {folder} was started from (SHA-256 {_short(recorded)}, "
            f"now {_short(digest)}); {INSTEAD}"
        )


def refuse_other_data(folder: Path, recorded: Mapping[str, str], digests: Mapping[str, str]) -> None:
    """Compare the data.

    Raises:
        ValueError: a dataset is new, gone, or has other structures or labels.
    """
    for name in sorted(set(recorded) | set(digests)):
        if recorded.get(name) != digests.get(name):
            raise InputError(
                f"the structures or labels of dataset {name!r} are not those that the run in {folder} was started with (digest "
                f"{_short(recorded.get(name))}, now {_short(digests.get(name))}); {INSTEAD}"
            )


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]


def _binding(settings: Any) -> dict[str, Any]:
    def binds(name: str) -> bool:
        section, _, option = name.partition(".")
        return option.partition(".")[0] in _BINDING_TRAINER if section == "trainer" else section not in _FREE

    return {name: value for name, value in _flat(settings).items() if binds(name)}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):  # an empty section is none: a newer schema may have it where an older one had not
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()}
    return {prefix: value}


def _checkpoint(config: Any) -> str | None:
    return getattr(config, "checkpoint", None) or getattr(config, "start_from", None)


def _checkpoint_digest(config: Any) -> str | None:
    path = _checkpoint(config)
    if path is None:
        return None
    model = model_path(path)
    files = [file for file in (model, model / WEIGHTS_FILE, model / CARD_FILE) if file.is_file()]
    digests = [_file_digest(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@lru_cache(maxsize=16)
def _file_digest(file: Path, changed: int, size: int) -> str:
    return sha256_of(file)


def _data_digest(item: OpenDataset) -> str:
    stores = (item.store, item.validation_store)
    content = [[store.metadata["content_hash"] for store in stores], len(item.train_indices), len(item.validation_indices)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
