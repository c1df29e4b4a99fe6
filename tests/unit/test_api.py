"""`unipot.api`: the commands as Python functions."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from hypothesis import given
from hypothesis import settings as how_often
from hypothesis import strategies as st

from unipot import UnipotCalculator, api, load_potential
from unipot.commands import VERBS
from unipot.workflows.evaluate import evaluate
from unipot.workflows.finetune import finetune
from unipot.workflows.finetuning.schema import FinetuneConfig
from unipot.workflows.md import MdConfig, md
from unipot.workflows.package import PackageConfig, package
from unipot.workflows.pretrain import pretrain
from unipot.workflows.relax import RelaxConfig, relax
from unipot.workflows.settings import compose
from unipot.workflows.settings.compose import config_from, load_config
from unipot.workflows.settings.schema import EvaluateConfig, PretrainConfig
from unipot.workflows.studies.config import StudyConfig
from unipot.workflows.study import study

#: what each command cannot do without
NEEDED = {
    "prepare": {"path": "a.extxyz", "level_of_theory": "PBE"},
    "pretrain": {"run": "r", "datasets": {"a": {"path": "a.unipot", "level_of_theory": "PBE"}}},
    "finetune": {"checkpoint": "m.safetensors", "data": "a.extxyz"},
    "evaluate": {"checkpoint": "m.safetensors"},
    "relax": {"checkpoint": "m.safetensors", "structure": "a.extxyz"},
    "md": {"checkpoint": "m.safetensors", "structure": "a.extxyz"},
}


def schema_of(verb):
    return resolve_name(VERBS[verb].schema)


def words_of(settings, where=""):
    """`settings` as a command line."""
    words = []
    for key, value in settings.items():
        if isinstance(value, dict):
            words += words_of(value, f"{where}{key}.")
        elif isinstance(value, list):
            words.append(f"{where}{key}=[{','.join(map(str, value))}]")
        else:
            words.append(f"{where}{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}")
    return words


@pytest.mark.parametrize(
    ("verb", "settings"),
    [
        ("prepare", {"workers": 2, "quarantine": {"max_force": 20.5}, "labels": {"energy": {"key": "E", "unit": "eV"}}, "overwrite": True}),
        ("pretrain", {"backbone": "native-tiny", "trainer": "gpu", "trainer.devices": 4, "schedule": {"max_steps": 9, "warmup_steps": 3}}),
        ("pretrain", {"experiment": "smoke", "datasets.a.labels": ["energy"], "optimizer.betas": [0.8, 0.9], "cache": None}),
        ("pretrain", {"dataset@datasets.a": "extxyz", "optimizer": "adamw", "optimizer.ema_decay": 0.5}),
        ("finetune", {"small_data": "off", "schedule": {"max_steps": 100}, "optimizer.learning_rate": 0.01}),
        ("finetune", {"finetune": "lora", "finetune.lora": {"rank": 4}, "preset": "keep-pretraining"}),
        ("finetune", {"level_of_theory": "PBE, VASP (520 eV)"}),
        ("finetune", {"small_data": False, "validation_fraction": 0.0, "properties.gap": {"key": "gap", "unit": "eV", "weight": 2}}),
        ("evaluate", {"data": ["a.extxyz", "b.extxyz"], "head": ["a", "b"], "thresholds": {"forces": 0.1}, "dtype": "float64"}),
        ("relax", {"optimizer": "fire", "index": ":", "fmax": 0.1, "relax_cell": True, "device": "cpu"}),
        ("md", {"ensemble": "nve", "n_steps": 5, "index": -1, "max_temperature": None}),
    ],
)
def test_settings_make_the_same_configuration_as_on_the_command_line(verb, settings):
    settings = {**NEEDED[verb], **settings}
    assert config_from(verb, schema_of(verb), settings) == load_config(verb, schema_of(verb), words_of(settings))


@pytest.mark.parametrize("verb", NEEDED)
def test_defaults_are_those_of_the_command(verb):
    assert config_from(verb, schema_of(verb), NEEDED[verb]) == load_config(verb, schema_of(verb), words_of(NEEDED[verb]))


@pytest.fixture(scope="module")
def composed_once():
    """Hydra reads its files once: the property below is not about them."""
    kept = functools.cache(lambda verb, choices: real(verb, list(choices)))
    real = compose._composed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_composed", lambda verb, choices: kept(verb, tuple(choices)).copy())
        yield


@pytest.mark.usefixtures("composed_once")
@how_often(max_examples=8, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**31),
            "optimizer.learning_rate": st.floats(1e-9, 1.0),
            "small_data": st.sampled_from(["auto", "off", "on", False, True]),
            "schedule": st.fixed_dictionaries({}, optional={"max_steps": st.integers(1, 9999), "final_fraction": st.floats(0, 1)}),
            "labels": st.lists(st.sampled_from(["energy", "forces", "stress"]), unique=True),
            "head": st.none() | st.from_regex(r"[a-z]{3}_\d", fullmatch=True),
            "keep_unconverged": st.booleans(),
        },
    )
)
def test_any_settings_of_finetune_make_the_same_configuration_in_both_ways(settings):
    settings = {**NEEDED["finetune"], **settings}
    assert config_from("finetune", FinetuneConfig, settings) == load_config("finetune", FinetuneConfig, words_of(settings))


def test_stated_settings_are_noted_so_that_small_data_mode_leaves_them_alone():
    config = config_from("finetune", FinetuneConfig, {**NEEDED["finetune"], "optimizer": "adamw", "schedule": {"max_steps": 7}})
    assert config.stated == ["optimizer", "schedule.max_steps"]


def test_paths_tuples_and_numbers_of_numpy_are_taken():
    config = config_from(
        "finetune", FinetuneConfig, {"checkpoint": Path("m"), "data": "d", "seed": np.int64(3), "optimizer.betas": (0.5, np.float32(0.25))}
    )
    assert (config.checkpoint, config.seed, tuple(config.optimizer.betas)) == ("m", 3, (0.5, 0.25))


def test_keywords_win_over_settings_and_settings_over_the_file(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("unipot.workflows.pretrain.pretrain", found.append)
    file = tmp_path / "my.yaml"
    file.write_text("run: file\nseed: 1\ncache: file\nbackbone: native-tiny\n")
    api.pretrain(config=file, settings={"seed": 2, "cache": "settings", "schedule": {"max_steps": 5, "warmup_steps": 2}}, seed=3,
                 schedule={"max_steps": 6})  # fmt: skip
    (config,) = found
    assert (config.run, config.cache, config.seed, config.schedule.max_steps, config.schedule.warmup_steps) == ("file", "settings", 3, 6, 2)
    assert config.backbone.hyperparameters["n_layers"] == 1


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sede": 1}, r"option 'sede' is not known \(did you mean 'seed'\?\)"),
        ({"settings": {"schedule.max_step": 1}}, r"option 'schedule.max_step' is not known \(did you mean 'max_steps'\?\)"),
        ({"schedule": {"max_step": 1}}, r"option 'schedule.max_step' is not known \(did you mean 'max_steps'\?\)"),
        ({"trainer": "gpuu"}, r"trainer=gpuu is not known \(did you mean 'gpu'\?\); options are: cpu, gpu"),
        ({"seed": "many"}, "seed: Value 'many'"),
        ({"start_from": bulk("Cu")}, "start_from is given an object of type Atoms; .* data are paths of files"),
        ({"start_from": "${"}, "cannot read start_from="),
        ({"settings": "seed=1"}, "settings are given as 'seed=1'; give a mapping"),
    ],
)
def test_misuse_is_one_sentence_that_names_it(keywords, message):
    with pytest.raises(ValueError, match=message) as error:
        api.pretrain(**{**NEEDED["pretrain"], **keywords})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, r"run is not set; give run=\.\.\."),
        ({"run": "r", "datasets": {"a": {"path": "x"}}}, r"not set; give settings=\{'datasets.a.level_of_theory': \.\.\.\}"),
    ],
)
def test_a_missing_value_is_named_with_how_it_is_given(keywords, message):
    with pytest.raises(ValueError, match=message):
        api.pretrain(**keywords)


@pytest.mark.parametrize(
    ("workflow", "config"),
    [
        (pretrain, PretrainConfig(run="r")),
        (finetune, FinetuneConfig(checkpoint="m.safetensors", data="a.extxyz")),
        (evaluate, EvaluateConfig(checkpoint="m.safetensors")),
        (relax, RelaxConfig(checkpoint="m.safetensors", structure="a.extxyz")),
        (md, MdConfig(checkpoint="m.safetensors", structure="a.extxyz")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_configuration_made_by_hand_is_refused_with_the_way_to_the_defaults(workflow, config):
    name = workflow.__name__
    with pytest.raises(ValueError, match=rf"{type(config).__name__}: .* not set, .* call unipot\.api\.{name}\(\.\.\.\)") as error:
        workflow(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("workflow", "config"), [(package, PackageConfig(checkpoint="m.safetensors")), (study, StudyConfig(checkpoint="m.safetensors"))]
)
def test_a_configuration_of_a_command_alone_is_refused_with_the_command(workflow, config):
    with pytest.raises(ValueError, match=f"{type(config).__name__}: .* not set, .* run the command, .* `unipot {workflow.__name__}`"):
        workflow(config)


@pytest.mark.parametrize("verb", api.__all__)
def test_every_function_is_a_command_and_says_what_it_gives(verb):
    function = getattr(api, verb)
    assert verb in VERBS and f"unipot {verb}`" in function.__doc__ and "Returns:" in function.__doc__
    assert all(p.kind is not p.POSITIONAL_OR_KEYWORD for p in inspect.signature(function).parameters.values())


def test_the_module_loads_nothing_heavy():
    heavy = "any(m in sys.modules for m in ('torch', 'lightning', 'ase', 'hydra'))"
    assert subprocess.run([sys.executable, "-c", f"import sys, unipot.api; sys.exit({heavy})"], capture_output=True).returncode == 0


def test_from_data_to_relaxed_structures(toy_data, tmp_path, monkeypatch):
    """One run through pretraining, evaluation, relaxation and dynamics; results are readable in one line each."""
    monkeypatch.chdir(tmp_path)
    metals = {"path": toy_data["metals"], "level_of_theory": "EMT", "labels": ["energy", "forces", "stress"]}
    result = api.pretrain(
        run="run", experiment="smoke", datasets={"metals": metals}, schedule={"max_steps": 2}, trainer={"threads": 1, "validate_every": 2}
    )
    model = result.run / "best.safetensors"
    assert model.is_file() and result.step == 2
    assert one_line(result).startswith("FitResult(2 steps, best ") and "run 'run'; last validation: metals: mean absolute" in repr(result)
    assert "eV/atom, " in repr(result)

    (evaluation,) = api.evaluate(checkpoint=model, data=toy_data["metals"])
    assert one_line(evaluation).startswith("Evaluation(best through head 'metals', metals: mean absolute error of energy")
    assert f"forces {evaluation.get('forces', 'mae'):.4g} eV/A" in repr(evaluation)

    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=0)
    write("start.extxyz", crystal)
    (relaxation,) = api.relax(checkpoint=model, structure="start.extxyz", max_steps=2, fmax=1e-9, device="cpu")
    assert not relaxation.converged and relaxation.energies[-1] == relaxation.atoms.get_potential_energy()
    assert one_line(relaxation).startswith("Relaxation(Cu4: NOT converged after 2 steps: energy")
    trajectory = api.md(checkpoint=model, structure="start.extxyz", n_steps=2, interval=1, device="cpu")
    assert one_line(trajectory).startswith("Trajectory(nvt of Cu4, 3 records: 0.001 ps")

    assert one_line(UnipotCalculator(model)) == "UnipotCalculator(run, head 'metals' (EMT), total energies, float32 on cpu)"
    potential = load_potential(model)
    n_parameters = sum(p.numel() for p in potential.parameters())
    expected = f"Potential(native, {n_parameters:,} parameters, cutoff 4 Å, float32 on cpu, heads: metals (EMT))"
    assert one_line(potential).startswith(expected)
    assert "Linear(" in repr(potential.backbone)


def test_prepare_gives_the_store(toy_data, tmp_path):
    store = api.prepare(path=toy_data["metals"], out=tmp_path / "m.unipot", level_of_theory="EMT", workers=1)
    assert one_line(store) == f"Store({str(tmp_path / 'm.unipot')!r}, 40 structures, EMT)"


def test_many_heads_are_counted_after_the_first_ones(make_potential):
    text = one_line(make_potential(heads=tuple(f"h{k}" for k in range(7))))
    assert "heads: h0 (level 0), h1 (level 1), h2 (level 2), h3 (level 3) and 3 more" in text


def one_line(thing) -> str:
    text = repr(thing)
    assert "\n" not in text and len(text) < 400
    return text
