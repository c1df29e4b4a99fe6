import json
import subprocess
import sys

import pytest

from unipot.cli import VERBS, main
from unipot.data.catalog.recipes import recipe_names
from unipot.resources import data_recipes_dir


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("words", [(), ("--help",), ("help",)])
def test_help_lists_every_command(capsys, words):
    code, out, _ = run(capsys, *words)
    assert code == 0 and all(verb in out for verb in [*VERBS, "models", "recipes"])


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


def test_defects_of_ours_are_not_dressed_up_as_misuse(monkeypatch):
    monkeypatch.setattr("unipot.cli._models", lambda words: json.loads("{"))
    with pytest.raises(json.JSONDecodeError):
        main(["models", "list"])


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
