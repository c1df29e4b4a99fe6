"""Every YAML file that ships is composed, checked against its schema, and what it describes is built."""

from importlib import import_module

import pytest

from unipot.cli import VERBS
from unipot.models.registry import build_backbone
from unipot.resources import conf_dir
from unipot.training.losses import KINDS
from unipot.workflows.construction.model import build_loss, build_settings
from unipot.workflows.finetuning.search.search_plan import candidate_configs
from unipot.workflows.runs.fit import set_up_process
from unipot.workflows.settings.compose import group_names, load_config, options_of
from unipot.workflows.settings.schema import LossConfig, PretrainConfig
from unipot.workflows.studies.config import strategies_of, targets_of

#: what a verb cannot do without
MANDATORY = {
    "prepare": ["path=a.extxyz", "level_of_theory=PBE"],
    "duplicates": ["stores=[a.unipot]"],
    "inspect": ["store=a.unipot"],
    "pretrain": ["run=runs/a", "datasets.a.path=a.extxyz", "datasets.a.level_of_theory=PBE"],
    "finetune": ["checkpoint=a.safetensors", "data=a.extxyz"],
    "study": ["checkpoint=a.safetensors", "data=a.extxyz"],
    "report": ["output=report.html"],
    "evaluate": ["checkpoint=a.safetensors", "data=a.extxyz"],
    "relax": ["checkpoint=a.safetensors", "structure=a.extxyz"],
    "md": ["checkpoint=a.safetensors", "structure=a.extxyz"],
    "package": ["checkpoint=a.safetensors"],
}
#: groups whose options go into pretrain as `group=option`
OF_PRETRAIN = ("backbone", "mixture", "heads", "loss", "optimizer", "schedule", "trainer", "logger", "experiment")
#: values an option cannot do without
NEEDED = {"escn-md-checkpoint": ["backbone.hyperparameters.checkpoint=a.pt"]}


def schema_of(verb: str) -> type:
    module, _, name = VERBS[verb].schema.partition(":")
    return getattr(import_module(module), name)


def options(*groups: str) -> list[tuple[str, str]]:
    return [(group, option) for group in groups for option in options_of(group)]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_configuration_that_fits_its_schema(verb):
    config = load_config(verb, schema_of(verb), MANDATORY[verb])
    assert isinstance(config, schema_of(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_function(verb):
    module, _, name = VERBS[verb].workflow.partition(":")
    assert callable(getattr(import_module(module), name))


def test_every_yaml_is_covered_by_a_test():
    tops = {path.stem for path in conf_dir().glob("*.yaml")}
    assert tops == set(VERBS)
    assert set(group_names()) == {*OF_PRETRAIN, "dataset", "finetune", "preset", "small_data", "targets"}


@pytest.mark.parametrize(("group", "option"), options(*OF_PRETRAIN), ids=lambda value: value)
def test_every_option_fits_pretraining(group, option, monkeypatch):
    monkeypatch.setenv("UNIPOT_REAL_DATA", "data")  # an experiment may take its folder from there
    config = load_config("pretrain", PretrainConfig, [*MANDATORY["pretrain"], f"{group}={option}", *NEEDED.get(option, [])])
    build_settings(config.optimizer, config.schedule)


@pytest.mark.parametrize("option", options_of("finetune"))
def test_every_strategy_fits_finetuning(option):
    assert load_config("finetune", schema_of("finetune"), [*MANDATORY["finetune"], f"finetune={option}"]).finetune.method


@pytest.mark.parametrize("option", options_of("preset"))
def test_every_preset_of_finetuning_changes_it_and_gives_way_to_what_is_said(option):
    words = [*MANDATORY["finetune"], f"preset={option}"]
    schema = schema_of("finetune")
    plain, preset = load_config("finetune", schema, MANDATORY["finetune"]), load_config("finetune", schema, words)
    assert preset != plain
    assert load_config("finetune", schema, [*words, "optimizer.learning_rate=7e-4"]).optimizer.learning_rate == 7e-4


@pytest.mark.parametrize("option", options_of("targets"))
def test_every_set_of_targets_and_every_default_strategy_fits_a_study(option, monkeypatch):
    monkeypatch.setenv("UNIPOT_REAL_DATA", "data")
    config = load_config("study", schema_of("study"), ["checkpoint=a.safetensors", f"targets={option}"])
    assert len(targets_of(config)) >= 1 and all(target.level_of_theory for target in config.targets.values())
    assert config.reference in strategies_of(config)


@pytest.mark.parametrize("option", options_of("small_data"))
def test_every_mode_of_small_data_has_candidates_that_fit(option):
    config = load_config("finetune", schema_of("finetune"), [*MANDATORY["finetune"], f"small_data={option}"])
    assert config.small_data.mode == option
    assert list(candidate_configs(config)) == list(config.small_data.candidates)


@pytest.mark.parametrize("option", options_of("dataset"))
def test_every_dataset_option_fits_a_dataset(option):
    words = ["run=runs/a", f"dataset@datasets.mine={option}", "datasets.mine.path=a", "datasets.mine.level_of_theory=PBE"]
    assert load_config("pretrain", PretrainConfig, words).datasets["mine"].sources


@pytest.mark.parametrize("option", [option for option in options_of("backbone") if option.startswith("native")])
def test_every_native_backbone_can_be_built(option):
    config = load_config("pretrain", PretrainConfig, [*MANDATORY["pretrain"], f"backbone={option}"]).backbone
    hyperparameters = {**config.hyperparameters, "average_neighbors": 10.0}
    assert build_backbone(config.name, hyperparameters).hyperparameters.items() >= hyperparameters.items()


@pytest.mark.parametrize("option", [option for option in options_of("backbone") if option.startswith("escn-md") and option not in NEEDED])
def test_every_escn_md_option_names_known_hyperparameters(option):
    from unipot.models.fairchem import DEFAULTS

    config = load_config("pretrain", PretrainConfig, [*MANDATORY["pretrain"], f"backbone={option}"]).backbone
    assert set(config.hyperparameters) <= set(DEFAULTS)


@pytest.mark.parametrize("option", options_of("loss"))
def test_every_loss_can_be_built(option):
    loss: LossConfig = load_config("pretrain", PretrainConfig, [*MANDATORY["pretrain"], f"loss={option}"]).loss
    terms = build_loss(loss, ["a"], [1.0], [("energy", "forces", "stress")]).terms
    assert [term.property for term in terms] == ["energy", "forces", "stress"]
    assert all(term.kind in KINDS for term in terms)


def test_cpu_trainer_can_be_set_up():
    config = load_config("pretrain", PretrainConfig, [*MANDATORY["pretrain"], "trainer=cpu", "trainer.threads=1"])
    set_up_process(config.trainer, config.seed)


def test_sharded_strategy_is_refused():
    config = load_config("pretrain", PretrainConfig, [*MANDATORY["pretrain"], "trainer.strategy=fsdp", "trainer.threads=1"])
    with pytest.raises(ValueError, match="sharded parameters break the second derivatives"):
        set_up_process(config.trainer, config.seed)
