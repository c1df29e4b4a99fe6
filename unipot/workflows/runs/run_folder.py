"""The folder of a run: where its configuration, numbers, run state and artifacts lie, and whether it may be continued."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from unipot.training.checkpoint import LAST, read_run_state, replace_file
from unipot.training.distributed import is_main_process
from unipot.workflows.settings.compose import RESOLVED_CONFIG, to_yaml

#: sections that may differ when a run is continued: they do not change which weights come out
_FREE = ("run", "resume", "cache", "trainer", "logger")


class RunFolder:
    """Paths of one run; made by `open_run_folder`.

    Attributes:
        path: the folder.
        resume: whether a run state is there to continue from.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path, self.resume = path, resume

    def cache(self, stated: str | None) -> Path:
        """Folder for stores made from structure files: the one `stated` in the configuration, else one of the run's own."""
        return Path(stated) if stated else self.path / "data"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def run_state(self) -> Path:
        return self.path / LAST

    @property
    def references(self) -> Path:
        return self.path / "references.json"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"


def open_run_folder(path: str, *, resume: str, config: Any) -> RunFolder:
    """Make the folder, or find the run in it that is to be continued.

    Args:
        path: of the folder.
        resume: `auto` continues a run that is there, `never` refuses to touch one.
        config: instance of the run's schema; written to `resolved_config.yaml`.

    Raises:
        FileExistsError: there is a run and `resume` is `never`.
        ValueError: `resume` is neither, the run there had another configuration, or its state is damaged.
    """
    if resume not in ("auto", "never"):
        raise ValueError(f"resume is {resume!r}; use auto, never, or the path of a run folder")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"run={path}: a file of that name exists; choose another folder")
    found = (folder / LAST).is_file()
    if found and resume == "never":
        raise FileExistsError(f"run={path}: there is a run already; choose another folder, or resume=auto to continue it")
    if found:
        _refuse_changes(folder, config)
        read_run_state(folder / LAST)
    (folder / LAST.parent).mkdir(parents=True, exist_ok=True)
    if is_main_process():
        (folder / RESOLVED_CONFIG).write_text(to_yaml(config))
    return RunFolder(folder, resume=found)


def settings_fingerprint(config: Any) -> str:
    """A digest of every option that a run may not change when it is continued: what a file in its folder was made with."""
    own = _flat(OmegaConf.to_container(OmegaConf.create(to_yaml(config))))
    kept = {key: value for key, value in own.items() if key.split(".")[0] not in _FREE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _refuse_changes(folder: Path, config: Any) -> None:
    file = folder / RESOLVED_CONFIG
    if not file.is_file():
        raise ValueError(f"{file} is missing, so the run in this folder cannot be continued safely; choose another run folder")
    old, new = _flat(OmegaConf.to_container(OmegaConf.load(file))), _flat(OmegaConf.to_container(OmegaConf.create(to_yaml(config))))
    defaults = _flat(OmegaConf.to_container(OmegaConf.structured(type(config))))
    old = {k: v for k, v in defaults.items() if v != MISSING} | old  # options that came later had their defaults
    for key in sorted(set(old) | set(new)):
        if key.split(".")[0] not in _FREE and old.get(key) != new.get(key):
            raise ValueError(
                f"the run in {folder} was started with {key}={old.get(key)}, now it is {new.get(key)}; continue it unchanged "
                f"(resume={folder} takes the configuration stored there), or choose another run folder"
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):  # an empty section is none: a newer schema may have it where an older one had not
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()}
    return {prefix: value}


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
    replace_file(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """`write_whole` of JSON; numbers that are not finite are refused."""
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
