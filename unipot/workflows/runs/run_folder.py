"""The folder of a run: where its configuration, numbers, run state and artifacts lie, and whether it may be continued."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unipot.errors import InputError
from unipot.reporting.console import report_console
from unipot.training.checkpoint import LAST, ORIGIN, PREVIOUS, readable_run_state, replace_file
from unipot.training.distributed import is_main_process
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.runs.origin import (
    INSTEAD,
    ORIGIN_FILE,
    Origin,
    data_digests,
    refuse_other_checkpoint,
    refuse_other_data,
    refuse_other_settings,
)
from unipot.workflows.runs.ownership import LOCK, own_folder
from unipot.workflows.settings.compose import RESOLVED_CONFIG, read_yaml, to_yaml

#: what `resume` may be, beside the path of a run folder
RESUME = ("auto", "never", "fresh")
#: weights of a run
_WEIGHTS = ("best.safetensors", "last.safetensors")
#: stays where it is when a run starts over: stores are named after what they hold
_DATA, _REPLACED = "data", "replaced-"


class RunFolder:
    """Paths of one run; made by `open_run_folder`.

    Attributes:
        path: the folder.
        resume: whether a run state is there to continue from.
        resume_from: its file.
        step: of the newest run state that is known to be whole, None without one.
        origin: what this run is made from, None where nothing is to be trained.
        recorded: what the run that is there was made from, None where that is not known.
    """

    def __init__(
        self,
        path: Path,
        *,
        resume: bool,
        resume_from: Path | None = None,
        step: int | None = None,
        origin: Origin | None = None,
        recorded: Origin | None = None,
    ) -> None:
        self.path, self.resume, self.step, self.origin, self.recorded = path, resume, step, origin, recorded
        self.resume_from = resume_from or path / LAST

    def cache(self, stated: str | None) -> Path:
        """Folder for stores made from structure files: the one stated in the configuration, else one in the run folder."""
        return Path(stated) if stated else self.path / _DATA

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def references(self) -> Path:
        return self.path / "references.json"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    def saved(self, step: int) -> None:
        """The run state of `step` is in the folder now."""
        self.step = step

    def claim(self, datasets: Sequence[OpenDataset]) -> None:
        """Record the data of this run, as soon as they are opened; nothing where nothing is to be trained.

        Raises:
            ValueError: the run that is there was started with other structures or labels.
        """
        if self.origin is None:
            return
        digests = data_digests(datasets)
        if self.recorded is not None:
            refuse_other_data(self.path, self.recorded.data, digests)
        self.origin = replace(self.origin, data=digests)
        if is_main_process():
            write_json(self.path / ORIGIN_FILE, self.origin.to_dict())


#: folders that this process has opened
_opened: list[RunFolder] = []


def open_run_folder(path: str, *, resume: str, config: Any) -> RunFolder:
    """Make the folder, or find the run in it that is to be continued; from now on no other process may write there.

    Args:
        path: of the folder.
        resume: `auto` continues a run that is there, `never` refuses to touch one, `fresh` moves it aside and starts over.
        config: instance of the run's schema; written to `resolved_config.yaml`.

    Raises:
        FileExistsError: there is a run and `resume` is `never`, or another process writes there.
        ValueError: `resume` is neither, the run there was made from something else, or its state is damaged.
    """
    if resume not in RESUME:
        raise InputError(f"resume is {resume!r}; use one of {', '.join(RESUME)}, or the path of a run folder")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"run={path}: a file of that name exists; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    if is_main_process():
        own_folder(folder)
    origin = Origin.of(config)
    if resume == "fresh" and not _is_requeued():
        run = RunFolder(folder, resume=False, origin=origin)
        _set_aside(folder)
    else:
        run = _run_found(folder, origin, config, resume)
    (folder / LAST.parent).mkdir(parents=True, exist_ok=True)
    if is_main_process():
        write_whole(folder / RESOLVED_CONFIG, to_yaml(config))
    _opened[:] = [run]
    return run


def opened_run_folder() -> RunFolder | None:
    """The run folder that this process has opened last."""
    return _opened[0] if _opened else None


def forget_opened() -> None:
    """As if none had been opened: a command of its own begins."""
    _opened.clear()


def _run_found(folder: Path, origin: Origin, config: Any, resume: str) -> RunFolder:
    """The run that is there, if there is one, is compared with what is asked for."""
    has_state = any((folder / file).is_file() for file in (LAST, PREVIOUS))
    weights = [name for name in _WEIGHTS if (folder / name).is_file()]
    if (has_state or weights) and resume == "never":
        raise FileExistsError(f"run={folder}: there is a run already; choose another folder, or resume=auto to continue it")
    if not (has_state or weights):
        return RunFolder(folder, resume=False, origin=origin)
    if not has_state:  # killed before its first state, or one where nothing was better than the start: weights may not change hands
        recorded = _recorded_origin(folder, config, weights[0])
        return RunFolder(folder, resume=False, origin=origin, recorded=recorded)
    console = report_console(quiet=not is_main_process())
    try:
        file, state, damage = readable_run_state(folder)
    except ValueError as error:
        raise InputError(f"{error}; {INSTEAD}") from error
    step = int(state["global_step"])
    if damage:
        said = f"warning: {damage}; the run goes on from the state before it, of step {step}"
        console.print(said, style="yellow", highlight=False, markup=False)
    if ORIGIN in state:
        recorded = Origin.from_dict(state[ORIGIN])
        refuse_other_settings(folder, recorded.settings, config)
        refuse_other_checkpoint(folder, recorded.checkpoint, config)
    else:
        recorded = None
        refuse_other_settings(folder, _resolved_config(folder), config)
        said = f"warning: the run in {folder} is of an earlier version of unipot, which did not record the content of checkpoint and data"
        console.print(f"{said}; see to it that they are the same", style="yellow", highlight=False, markup=False)
    return RunFolder(folder, resume=True, resume_from=file, step=step, origin=origin, recorded=recorded)


def _recorded_origin(folder: Path, config: Any, weights: str) -> Origin | None:
    """What a run without a run state was made from.

    Raises:
        ValueError: it was something else than what is asked for now, or is not known.
    """
    if (folder / ORIGIN_FILE).is_file():
        content = read_json(folder / ORIGIN_FILE)
        try:
            recorded = Origin.from_dict(content)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / ORIGIN_FILE}: not what unipot has written there; {INSTEAD}") from error
        refuse_other_settings(folder, recorded.settings, config)
        refuse_other_checkpoint(folder, recorded.checkpoint, config)
        return recorded
    if not (folder / RESOLVED_CONFIG).is_file():
        raise InputError(f"run={folder}: {weights} is there, but nothing says which run it is of; {INSTEAD}")
    refuse_other_settings(folder, _resolved_config(folder), config)
    return None


def _resolved_config(folder: Path) -> Any:
    file = folder / RESOLVED_CONFIG
    if not file.is_file():
        raise InputError(f"{file} is missing, so the run in this folder cannot be continued safely; {INSTEAD}")
    return read_yaml(file)


def _set_aside(folder: Path) -> None:
    """Move what an earlier run has left into a folder of its own."""
    if not is_main_process():
        return
    left = [item for item in folder.iterdir() if item.name not in (LOCK, _DATA) and not item.name.startswith(_REPLACED)]
    if not left:
        return
    number = 1
    while (target := folder / f"{_REPLACED}{number}").exists():
        number += 1
    target.mkdir()
    for item in left:
        os.replace(item, target / item.name)
    report_console().print(f"what was in {folder} is now in {target}", highlight=False, markup=False)


def _is_requeued() -> bool:
    """Whether SLURM has started this job before: it then goes on, whatever it was asked to do at first."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
    replace_file(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """`write_whole` of JSON; numbers that are not finite are refused."""
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` has written.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); delete it, and what it held is made again") from error
