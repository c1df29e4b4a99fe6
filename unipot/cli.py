"""`unipot <verb> [options]`: one table of verbs; each is a function of a checked configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

#: errors that tell the user what to change; anything else is a defect of ours
USER_ERRORS = (ValueError, KeyError, TypeError, OSError)


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One command.

    Attributes:
        workflow: `module:function`, imported when the verb is run.
        schema: `module:dataclass` of its configuration.
        summary: one line for the help text.
        example: a full command line.
        kinds: words of which one must follow the verb; empty where settings follow at once.
    """

    workflow: str
    schema: str
    summary: str
    example: str
    kinds: tuple[str, ...] = ()


VERBS: dict[str, Verb] = {
    "prepare": Verb(
        workflow="unipot.workflows.prepare:prepare",
        schema="unipot.workflows.settings.schema:PrepareConfig",
        summary="convert structures to a store, with a census",
        example="unipot prepare path=oc20.extxyz out=oc20.unipot level_of_theory=RPBE",
    ),
    "duplicates": Verb(
        workflow="unipot.workflows.duplicates:duplicates",
        schema="unipot.workflows.duplicates:DuplicatesConfig",
        summary="frames of equal geometry within and across stores, and leakage",
        example="unipot duplicates stores=[train.unipot] held_out=[test.unipot]",
    ),
    "inspect": Verb(
        workflow="unipot.workflows.inspect:inspect",
        schema="unipot.workflows.inspect:InspectConfig",
        summary="what stores hold, as one HTML page",
        example="unipot inspect stores=[oc20.unipot,mptrj.unipot] output=data.html",
    ),
    "pretrain": Verb(
        workflow="unipot.workflows.pretrain:pretrain",
        schema="unipot.workflows.settings.schema:PretrainConfig",
        summary="train one model on a mixture of datasets",
        example="unipot pretrain run=runs/a datasets.oc20.path=oc20.unipot datasets.oc20.level_of_theory=RPBE",
    ),
    "finetune": Verb(
        workflow="unipot.workflows.finetune:finetune",
        schema="unipot.workflows.finetuning.schema:FinetuneConfig",
        summary="adapt a trained model to your own frames",
        example="unipot finetune checkpoint=runs/a/best.safetensors data=mine.extxyz",
    ),
    "evaluate": Verb(
        workflow="unipot.workflows.evaluate:evaluate",
        schema="unipot.workflows.evaluate:EvaluateConfig",
        summary="errors per dataset, property and element",
        example="unipot evaluate checkpoint=runs/a/best.safetensors data=test.extxyz",
    ),
    "study": Verb(
        workflow="unipot.workflows.study:study",
        schema="unipot.workflows.studies.config:StudyConfig",
        summary="learning curves over frames, seeds, strategies and targets",
        example="unipot study learning-curve checkpoint=runs/a/best.safetensors data=mine.extxyz test_data=test.extxyz",
        kinds=("learning-curve",),
    ),
    "report": Verb(
        workflow="unipot.workflows.report:report",
        schema="unipot.workflows.report:ReportConfig",
        summary="one HTML page out of run folders",
        example="unipot report pretrain_run=runs/a finetune_runs=[runs/mine,runs/mine-scratch] output=report.html",
    ),
    "relax": Verb(
        workflow="unipot.workflows.relax:relax",
        schema="unipot.workflows.relax:RelaxConfig",
        summary="relax a structure",
        example="unipot relax checkpoint=runs/a/best.safetensors structure=slab.extxyz",
    ),
    "md": Verb(
        workflow="unipot.workflows.md:md",
        schema="unipot.workflows.md:MdConfig",
        summary="molecular dynamics",
        example="unipot md checkpoint=runs/a/best.safetensors structure=water.extxyz",
    ),
    "package": Verb(
        workflow="unipot.workflows.package:package",
        schema="unipot.workflows.package:PackageConfig",
        summary="compile a model ahead of time for simulations",
        example="unipot package checkpoint=runs/a/best.safetensors out=model.pt2",
    ),
}

#: starts one run of a study; not listed, since `unipot study` calls it
STUDY_RUN = "study-run"
#: how torch marks an error that a data-loading process raised
_WORKER = "DataLoader worker process"

_OPTIONS_HELP = """options:
  key.path=value     set one value, for example schedule.max_steps=2000
  group=option       choose a prepared block of settings, see the list below
  config=my.yaml     read values (and `group: option` lines) from your own file; the command line wins over it
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when it worked; 2 for a mistake in the input (one sentence on stderr, no traceback unless UNIPOT_DEBUG=1); 3 when `relax`
        wrote everything and a structure did not converge; 130 after Ctrl-C; of a training 143 after SIGTERM, and 75 after SIGUSR1,
        with which a job is to be put into the queue again.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments)
    except BrokenPipeError:  # the reader of our output has seen enough, as in `unipot pretrain --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except USER_ERRORS as error:
        if os.environ.get("UNIPOT_DEBUG") == "1" or not _is_for_user(error):
            raise
        print(f"unipot: error: {_sentence(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt as stop:  # that of a run says what is kept, and the exit code of its signal
        code = getattr(stop, "exit_code", 130)
        if code:
            print(f"unipot: {str(stop) or 'interrupted'}", file=sys.stderr)
        return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_general_help())
        return 0
    verb, *rest = arguments
    if verb in ("--version", "version"):
        from unipot import __version__

        print(__version__)
        return 0
    if verb == "models":
        return _models(rest)
    if verb == "recipes":
        return _recipes(rest)
    if verb == STUDY_RUN:
        from unipot.workflows.studies.worker import work

        return work(Path(rest[0]), main)
    if verb not in VERBS:
        names = [*VERBS, "models", "recipes"]
        close = get_close_matches(verb, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"command {verb!r} is not known{hint}; commands are: {', '.join(names)}")
    if any(word in ("-h", "--help") for word in rest):
        print(_verb_help(verb))
        return 0
    from unipot.workflows.settings.compose import load_config

    config = load_config(verb, _attribute(VERBS[verb].schema), _joined_config(_without_kind(verb, rest)))
    _attribute(VERBS[verb].workflow)(config)
    return 0


def _without_kind(verb: str, words: list[str]) -> list[str]:
    """The settings after `unipot study learning-curve`; other verbs have no kinds."""
    kinds = VERBS[verb].kinds
    if kinds and words[:1] not in [[kind] for kind in kinds]:
        found = f", not {words[0]!r}" if words else ""
        raise ValueError(f"unipot {verb} is followed by one of: {', '.join(kinds)}{found}; for example `{VERBS[verb].example}`")
    return words[1:] if kinds else words


def _joined_config(words: list[str]) -> list[str]:
    """`--config my.yaml` and `--config=my.yaml` as `config=my.yaml`; other dashed options are refused."""
    joined, waiting = [], False
    for word in words:
        if waiting:
            joined.append(f"config={word}")
            waiting = False
        elif word == "--config":
            waiting = True
        elif word.startswith("--config="):
            joined.append(word[2:])
        elif word.startswith("-"):
            raise ValueError(f"option {word!r} is not known; settings are written key=value, and --config names a file")
        else:
            joined.append(word)
    if waiting:
        raise ValueError("--config needs the path of a YAML file")
    return joined


def _models(words: list[str]) -> int:
    """`unipot models list | show <checkpoint> | verify <checkpoint>`."""
    if words[:1] in (["-h"], ["--help"]):
        print("usage: unipot models list | unipot models show <checkpoint> | unipot models verify <checkpoint>")
        return 0
    if words[:1] == ["list"] and len(words) == 1:
        from unipot.models.registry import backbone_names

        print("backbones: " + ", ".join(backbone_names()))
        return 0
    if words[:1] == ["show"] and len(words) == 2:
        import rich

        from unipot.zoo.show import describe_artifact

        rich.print(describe_artifact(words[1]))
        return 0
    if words[:1] == ["verify"] and len(words) == 2:
        from unipot.zoo.verify import verify_model

        for what, found in verify_model(words[1]):
            print(f"{what + ':':<14} {found}")
        print(f"nothing is wrong with {words[1]}")
        return 0
    raise ValueError("write `unipot models list`, `unipot models show <checkpoint>` or `unipot models verify <checkpoint>`")


def _recipes(words: list[str]) -> int:
    """`unipot recipes [name]`."""
    if words[:1] in (["-h"], ["--help"]):
        print("usage: unipot recipes: the data recipes with title, licence and size | unipot recipes <name>: the card of one")
        return 0
    if len(words) > 1 or words[:1] and words[0].startswith("-"):
        raise ValueError("write `unipot recipes`, or `unipot recipes <name>`")
    from unipot.workflows.recipe_list import list_recipes, show_recipe

    if words:
        show_recipe(words[0])
    else:
        list_recipes()
    return 0


def _general_help() -> str:
    lines = ["usage: unipot <command> [options]", "", "commands:"]
    lines += [f"  {name:<10} {verb.summary}" for name, verb in VERBS.items()]
    lines += ["  models     list backbones, show or verify a checkpoint", "  recipes    list public datasets, show the card of one"]
    lines += ["", "`unipot <command> --help` lists its settings."]
    return "\n".join(lines)


def _verb_help(name: str) -> str:
    from unipot.workflows.settings.compose import groups_for, options_of

    verb = VERBS[name]
    lines = [f"unipot {name}: {verb.summary}", "", f"example:\n  {verb.example}", "", _OPTIONS_HELP, "groups and their options:"]
    lines += [f"  {group:<10} {', '.join(options_of(group))}" for group in groups_for(_attribute(verb.schema))]
    from unipot.resources import conf_dir

    lines += ["", f"settings ({conf_dir() / (name + '.yaml')}):", "", (conf_dir() / f"{name}.yaml").read_text()]
    return "\n".join(lines)


def _attribute(path: str) -> object:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _is_for_user(error: BaseException) -> bool:
    """Whether the error was raised by unipot's own checks, or by the file system, and so is the user's to mend."""
    if isinstance(error, OSError) or _WORKER in str(error):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "").partition(".")[0]
    return raised_in in ("unipot", "recipe", "__main__") or raised_in.startswith("unipot_recipe_")


def _sentence(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if _WORKER in text:  # torch repeats the worker's whole traceback; its last line is the message
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return text


if __name__ == "__main__":
    sys.exit(main())
