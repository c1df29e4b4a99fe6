"""The commands as Python functions: the same settings, the same defaults, results instead of exit codes.

Every function takes the settings of its command as keyword arguments. `unipot <command> --help` lists them; `conf/` holds their defaults.

* A mapping sets values: `schedule={"max_steps": 100}`.
* A text for a group chooses its option: `trainer="gpu"`, as `trainer=gpu` on the command line.
* `settings={"schedule.max_steps": 100}` takes dotted names, as the command line does.
* `config="my.yaml"` reads a file.

Keyword arguments win over `settings`, `settings` over `config`, and `config` over the defaults. A mistake is raised as a
`unipot.errors.UserError` or one of Python's own exceptions, with one sentence that says what to change.

Example:
    >>> from unipot.api import finetune
    >>> result = finetune(checkpoint="base.safetensors", data="mine.extxyz", schedule={"max_steps": 100})  # doctest: +SKIP
    >>> result.run / "best.safetensors"  # doctest: +SKIP
    PosixPath('runs/finetune-mine/best.safetensors')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from unipot.commands import VERBS

if TYPE_CHECKING:
    from unipot.data.store import Store
    from unipot.evaluation.records import Evaluation
    from unipot.simulate.dynamics import Trajectory
    from unipot.simulate.relaxation import Relaxation
    from unipot.workflows.runs.fit import FitResult

__all__ = ["evaluate", "finetune", "md", "prepare", "pretrain", "relax"]


def prepare(*, config: str | Path | None = None, settings: Mapping[str, Any] | None = None, **keywords: Any) -> Store:
    """Convert structures to a store, as `unipot prepare`.

    Args:
        config: YAML file with settings.
        settings: dotted name -> value.
        **keywords: settings; `path` or `recipe` must be given, for a path `level_of_theory` too. `out` is the folder to make.

    Returns:
        The finished store.

    Raises:
        ValueError: a setting is unknown or wrong, or the data are not sound; FileNotFoundError: a path is not there; FileExistsError:
            the store is there already.
    """
    return _run_command("prepare", config, settings, keywords)


def pretrain(*, config: str | Path | None = None, settings: Mapping[str, Any] | None = None, **keywords: Any) -> FitResult:
    """Train one model on a mixture of datasets, as `unipot pretrain`.

    Args:
        config: YAML file with settings.
        settings: dotted name -> value.
        **keywords: settings; `run` (a folder) and `datasets` (name -> `{"path": ..., "level_of_theory": ...}`) must be given.

    Returns:
        Errors of the last validation, the best step, and the run folder with the model.

    Raises:
        ValueError: a setting is unknown, wrong or missing, or the data are not sound; FileNotFoundError: a path is not there.
    """
    return _run_command("pretrain", config, settings, keywords)


def finetune(*, config: str | Path | None = None, settings: Mapping[str, Any] | None = None, **keywords: Any) -> FitResult:
    """Adapt a trained model to your own frames, as `unipot finetune`.

    Args:
        config: YAML file with settings.
        settings: dotted name -> value.
        **keywords: settings; `checkpoint` (a model) and `data` (a file that ASE reads, or a store) must be given.

    Returns:
        Errors of the last validation, the best step, and the run folder with the model.

    Raises:
        ValueError: a setting is unknown, wrong or missing, or the data are not sound; KeyError: a head does not exist;
            FileNotFoundError: a path is not there.
    """
    return _run_command("finetune", config, settings, keywords)


def evaluate(*, config: str | Path | None = None, settings: Mapping[str, Any] | None = None, **keywords: Any) -> list[Evaluation]:
    """Errors of a model per dataset, property and element, as `unipot evaluate`; tables and plots are written too.

    Args:
        config: YAML file with settings.
        settings: dotted name -> value.
        **keywords: settings; `checkpoint` must be given. `data` is one path or a list; without it the validation sets of the
            checkpoint's run are taken.

    Returns:
        One evaluation for each dataset.

    Raises:
        ValueError: a setting is unknown, wrong or missing, or the data are not sound; KeyError: a head does not exist, or must be
            given; FileNotFoundError: a path is not there.
    """
    return _run_command("evaluate", config, settings, keywords)


def relax(*, config: str | Path | None = None, settings: Mapping[str, Any] | None = None, **keywords: Any) -> list[Relaxation]:
    """Relax the structures of a file, as `unipot relax`; the results are written to `out` too.

    A structure that does not converge raises nothing here: look at `converged` of its result. Structures that are ASE atoms already
    are relaxed by `unipot.simulate.relaxation`.

    Args:
        config: YAML file with settings.
        settings: dotted name -> value.
        **keywords: settings; `checkpoint` and `structure` (a file) must be given. `index=":"` takes all structures of the file.

    Returns:
        For each structure the relaxed atoms with energies (eV) and largest forces (eV/Å) of every step, in the order of the file.

    Raises:
        ValueError: a setting is unknown, wrong or missing, or a structure is not sound; FileNotFoundError: a file is not there;
            FileExistsError: an output is there already and `overwrite` is false.
    """
    workflow, configuration = _configured("relax", config, settings, keywords)
    # what the setting decides is the exit code of a command
    return workflow(replace(configuration, allow_unconverged=True))


def md(*, config: str | Path | None = None, settings: Mapping[str, Any] | None = None, **keywords: Any) -> Trajectory:
    """Molecular dynamics of one structure, as `unipot md`; the trajectory is written to `out` too.

    Args:
        config: YAML file with settings.
        settings: dotted name -> value.
        **keywords: settings; `checkpoint` and `structure` (a file) must be given.

    Returns:
        Times (fs), energies (eV), temperatures (K) and the last configuration.

    Raises:
        ValueError: a setting is unknown, wrong or missing, the structure is not sound, or the run exploded; FileNotFoundError: a file
            is not there; FileExistsError: the output is there already and `overwrite` is false.
    """
    return _run_command("md", config, settings, keywords)


def _run_command(verb: str, config: str | Path | None, settings: Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> Any:
    workflow, configuration = _configured(verb, config, settings, keywords)
    return workflow(configuration)


def _configured(
    verb: str, config: str | Path | None, settings: Mapping[str, Any] | None, keywords: Mapping[str, Any]
) -> tuple[Callable[[Any], Any], Any]:
    """What a command runs, and its configuration; a mistake in it is found before anything heavy is imported."""
    from unipot.workflows.settings.compose import config_from

    file = {} if config is None else {"config": config}
    configuration = config_from(verb, resolve_name(VERBS[verb].schema), settings or {}, keywords, file)
    return resolve_name(VERBS[verb].workflow), configuration
