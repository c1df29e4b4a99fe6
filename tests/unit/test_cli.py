import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module

import pytest

from unipot.cli import _WORD_COMMANDS, main, sentence_of
from unipot.command_help import candidates
from unipot.commands import VERBS, WORD_COMMANDS
from unipot.data.catalog.recipes import recipe_names
from unipot.defects import report_defect
from unipot.resources import data_recipes_dir

#: groups that commands have beside their sections
COMPOSED = {"pretrain": ("experiment", "backbone"), "finetune": ("preset",), "study": ("targets",)}


def schema_of(verb):
    module, _, name = VERBS[verb].schema.partition(":")
    return getattr(import_module(module), name)


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("words", [(), ("--help",), ("help",)])
def test_help_lists_every_command(capsys, words):
    code, out, _ = run(capsys, *words)
    assert code == 0 and all(verb in out for verb in [*VERBS, *WORD_COMMANDS])
    assert [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")] == [
        "prepare data:", "train a model:", "judge a model:", "use a model:",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_help_of_a_command_shows_settings_and_options(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0 and "config=my.yaml" in out and "native-small" in out and VERBS[verb].example in out


def test_recipes_are_listed_and_shown(capsys):
    code, out, _ = run(capsys, "recipes")
    assert code == 0 and all(name in out for name in recipe_names(data_recipes_dir()))
    code, out, _ = run(capsys, "recipes", "emt_slabs")
    assert code == 0 and "licence: CC0-1.0" in out and "options.n_frames=400" in out


def test_version(capsys):
    assert run(capsys, "--version")[1].strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pretrian",), "command 'pretrian' is not known (did you mean 'pretrain'?)"),
        (("pretrain", "run=r", "sede=1"), "option 'sede' is not known (did you mean 'seed'?)"),
        (("pretrain",), "run is not set"),
        (("pretrain", "--learning-rate", "1"), "option '--learning-rate' is not known"),
        (("pretrain", "--config"), "--config needs the path of a YAML file"),
        (("models", "shwo"), "unipot models show <checkpoint>"),
        (("models", "verify"), "unipot models verify <checkpoint>"),
        (("recipes", "mptrj", "wbm"), "write `unipot recipes`, or `unipot recipes <name>`"),
        (("recipes", "emt_slab"), "recipe 'emt_slab' is not known (did you mean 'emt_slabs'?)"),
        (("recipes", "oc20"), "(did you mean 'oc20_s2ef'?)"),
        (("completion", "tcsh"), "with one of: bash, zsh, fish"),
    ],
)
def test_misuse_is_one_line_on_stderr_with_code_2(capsys, monkeypatch, words, message):
    monkeypatch.delenv("UNIPOT_DEBUG", raising=False)
    code, out, err = run(capsys, *words)
    assert code == 2 and out == ""
    assert message in err and err.startswith("unipot: error: ") and err.count("\n") == 1


def test_traceback_on_demand(monkeypatch):
    monkeypatch.setenv("UNIPOT_DEBUG", "1")
    with pytest.raises(ValueError, match="not known"):
        main(["pretrian"])


@pytest.mark.parametrize("error", [ValueError("three things"), KeyError("energy"), TypeError("no"), ZeroDivisionError("0")])
def test_a_defect_of_ours_says_so_and_keeps_its_traceback_in_a_file(capsys, monkeypatch, tmp_path, error):
    def broken(words):
        raise error

    monkeypatch.delenv("UNIPOT_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(_WORD_COMMANDS, "models", broken)
    monkeypatch.setattr("sys.argv", ["unipot", "models", "list"])
    code, err = main(), capsys.readouterr().err
    (file,) = tmp_path.glob("unipot-error-*.txt")
    assert code == 70 and "unipot: defect:" in err and str(file) in err and "this is a mistake in unipot, not in your input" in err
    assert "in broken" in file.read_text() and "unipot models list" in file.read_text()


def test_a_program_that_calls_a_command_gets_the_exception_of_a_defect(monkeypatch):
    def broken(words):
        raise ZeroDivisionError("0")

    monkeypatch.setitem(_WORD_COMMANDS, "models", broken)
    with pytest.raises(ZeroDivisionError):
        main(["models", "list"])


def test_a_defect_in_a_folder_that_cannot_be_written_is_still_told(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("unipot.defects._written", lambda path, text: False)
    assert report_defect(RuntimeError("lost"), ["md"]) == 70
    assert "RuntimeError: lost" in capsys.readouterr().err


def test_a_package_that_is_not_installed_is_named_with_its_extra():
    error = ModuleNotFoundError("No module named 'tblite'", name="tblite.ase")
    assert sentence_of(error) == "this needs the package tblite: pip install 'unipot[quickstart]'"


def test_a_checkpoint_that_is_not_there_is_refused_before_torch_is_loaded(tmp_path):
    code = (
        "import sys; from unipot.cli import main; c = main(['finetune', 'checkpoint=nope.safetensors', 'data=a.xyz']); "
        "print(c, [n for n in ('torch', 'lightning') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "2 []" and "checkpoint: nope.safetensors is not there" in done.stderr


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_a_command_has_every_setting_and_no_group_of_others(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    names = [f.name for f in fields(schema_of(verb)) if f.name != "stated"]
    assert code == 0 and [name for name in names if not re.search(rf"^#? ?{name}:", out, re.M)] == []
    groups = re.findall(r"^  (\w+) +[\w-]+\*?(?:,|$)", out.partition("groups and their options")[2].partition("settings:")[0], re.M)
    assert set(groups) <= {*names, *COMPOSED.get(verb, ())}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("unipot fin", ["finetune"]),
        ("unipot finetune sche", ["schedule="]),
        ("unipot finetune optimizer=mu", ["optimizer=muon"]),
        ("unipot relax optimizer=", []),
        ("unipot nothing x", []),
    ],
)
def test_the_shell_completes_commands_settings_and_options(line, expected):
    assert candidates(line) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(capsys, shell):
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0 and "unipot completion --words" in out


def test_config_may_be_written_with_dashes(capsys, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("sede: 1\n")
    for words in (("--config", str(file)), (f"--config={file}",), (f"config={file}",)):
        code, _, err = run(capsys, "pretrain", "run=r", *words)
        assert code == 2 and "'sede'" in err


def test_help_loads_neither_torch_nor_lightning():
    heavy = "any(m in sys.modules for m in ('torch', 'lightning', 'ase', 'hydra'))"
    code = f"import sys; from unipot.cli import main; main(['--help']); sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
