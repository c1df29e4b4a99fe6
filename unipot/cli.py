"""`unipot <command> [settings]`: each command is a function of a checked configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from unipot.commands import VERBS, WORD_COMMANDS
from unipot.defects import report_defect
from unipot.errors import InputError, MissingFile, UserError
from unipot.nearest import did_you_mean

#: starts one run of a study; not listed, since `unipot study` calls it
STUDY_RUN = "study-run"
#: how torch marks an error that a data-loading process raised
_WORKER = "DataLoader worker process"
#: package -> extra that brings it
EXTRAS = {
    "tblite": "quickstart", "rdkit": "organics", "pyscf": "dft", "fairchem": "fairchem", "ase_db_backends": "fairchem", "h5py": "recipes",
    "ijson": "recipes", "zstandard": "compression",
}  # fmt: skip
#: settings that name a file which must be there before anything heavy is imported, and the commands that import it at once
_INPUTS = ("checkpoint", "data", "test_data", "validation_data", "pretrain_run", "start_from")
#: those of them that may be the name of a model
_MODELS = ("checkpoint", "start_from")
_HEAVY = ("pretrain", "finetune", "evaluate", "study")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when it worked; 2 for a mistake in the input (one sentence on stderr, no traceback unless UNIPOT_DEBUG=1); 3 when `relax`
        wrote everything and a structure did not converge; 70 for a defect of ours, whose traceback is in a file; 130 after Ctrl-C; of a
        training 143 after SIGTERM, and 75 after SIGUSR1, with which a job is to be put into the queue again.

    Raises:
        Exception: a defect of ours, where `arguments` are given, that is by a program; it can tell more from the exception itself.
    """
    by_program = arguments is not None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run_command(arguments)
    except BrokenPipeError:  # the reader of our output has seen enough, as in `unipot pretrain --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:  # that of a run says what is kept, and the exit code of its signal
        code = getattr(stop, "exit_code", 130)
        if code:
            print(f"unipot: {str(stop) or 'interrupted'}", file=sys.stderr)
        return code
    except Exception as error:
        if os.environ.get("UNIPOT_DEBUG") == "1":
            raise
        sentence = sentence_of(error)
        if sentence is None:
            if by_program:
                raise
            return report_defect(error, arguments)
        print(f"unipot: error: {sentence}", file=sys.stderr)
        return getattr(error, "exit_code", 2)


def sentence_of(error: BaseException) -> str | None:
    """What the user is told; None for a defect of ours."""
    text = str(error)
    if _WORKER in text:  # torch repeats the worker's whole traceback; its last line is the message
        text = text.strip().splitlines()[-1].partition(": ")[2]
    if isinstance(error, UserError | OSError) or _raised_in_a_recipe(error):
        return str(error.args[0]) if isinstance(error, KeyError) and error.args else text
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in EXTRAS:
            return f"this needs the package {package}: pip install 'unipot[{EXTRAS[package]}]'"
    return None


def _raised_in_a_recipe(error: BaseException) -> bool:
    """Recipes, of the user's own too, tell their mistakes by the exceptions of Python."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    return isinstance(error, ValueError | KeyError | TypeError) and (raised_in == "recipe" or raised_in.startswith("unipot_recipe_"))


def _run_command(arguments: list[str]) -> int:
    from unipot.command_help import command_help, general_help

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(general_help())
        return 0
    verb, *rest = arguments
    if verb in ("--version", "version"):
        from unipot import __version__

        print(__version__)
        return 0
    if verb in _WORD_COMMANDS:
        return _WORD_COMMANDS[verb](rest)
    if verb == STUDY_RUN:
        from unipot.workflows.studies.worker import work

        return work(Path(rest[0]), main)
    if verb not in VERBS:
        names = [*VERBS, *WORD_COMMANDS]
        raise InputError(f"command {verb!r} is not known{did_you_mean(verb, names)}; commands are: {', '.join(names)}")
    if any(word in ("-h", "--help") for word in rest):
        print(command_help(verb))
        return 0
    from unipot.workflows.settings.compose import load_config

    config = load_config(verb, _attribute(VERBS[verb].schema), _joined_config(_without_kind(verb, rest)))
    if verb in _HEAVY:
        _require_inputs(config)
    _attribute(VERBS[verb].workflow)(config)
    return 0


def _require_inputs(config: object) -> None:
    """Refuse paths that are not there now, not after the seconds that torch takes to load."""
    for key in _INPUTS:
        value = getattr(config, key, None)
        if key in _MODELS and isinstance(value, str) and value and _is_known_model(value):
            continue
        plain = isinstance(value, str) and "://" not in value and not set("*?[@") & set(value) and not value.endswith(".pt2")
        if plain and value and not Path(value).expanduser().exists() and not Path(value.partition("::")[0]).exists():
            raise MissingFile(f"{key}: {value} is not there (looked from {Path.cwd()}); correct the path")


def _is_known_model(value: str) -> bool:
    """Whether it is the name of a model; one that nobody knows is refused."""
    from unipot.zoo.locate import is_model_name, require_known

    if is_name := is_model_name(value):
        require_known(value)
    return is_name


def _without_kind(verb: str, words: list[str]) -> list[str]:
    """The settings after `unipot study learning-curve`; other verbs have no kinds."""
    kinds = VERBS[verb].kinds
    if kinds and words[:1] not in [[kind] for kind in kinds]:
        found = f", not {words[0]!r}" if words else ""
        raise InputError(f"unipot {verb} is followed by one of: {', '.join(kinds)}{found}; for example `{VERBS[verb].example}`")
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
            raise InputError(f"option {word!r} is not known; settings are written key=value, and --config names a file")
        else:
            joined.append(word)
    if waiting:
        raise InputError("--config needs the path of a YAML file")
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
    raise InputError("write `unipot models list`, `unipot models show <checkpoint>` or `unipot models verify <checkpoint>`")


def _recipes(words: list[str]) -> int:
    """`unipot recipes [name]`."""
    if words[:1] in (["-h"], ["--help"]):
        print("usage: unipot recipes: the data recipes with title, licence and size | unipot recipes <name>: the card of one")
        return 0
    if len(words) > 1 or words[:1] and words[0].startswith("-"):
        raise InputError("write `unipot recipes`, or `unipot recipes <name>`")
    from unipot.workflows.recipe_list import list_recipes, show_recipe

    if words:
        show_recipe(words[0])
    else:
        list_recipes()
    return 0


def _zoo(words: list[str]) -> int:
    """`unipot zoo <verb> ...`."""
    from unipot.workflows.zoo import zoo

    return zoo(words)


def _completion(words: list[str]) -> int:
    """`unipot completion <shell>`."""
    from unipot.command_help import completion

    print(completion(words))
    return 0


def _attribute(path: str) -> object:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


#: commands of words
_WORD_COMMANDS = {"models": _models, "recipes": _recipes, "zoo": _zoo, "completion": _completion}

if __name__ == "__main__":
    sys.exit(main())
