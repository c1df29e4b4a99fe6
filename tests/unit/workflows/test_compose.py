import pytest

from unipot.workflows.settings.compose import load_config, to_yaml
from unipot.workflows.settings.schema import PretrainConfig

DATASET = ["datasets.a.path=a.extxyz", "datasets.a.level_of_theory=PBE"]


def load(*words):
    return load_config("pretrain", PretrainConfig, ["run=r", *DATASET, *words])


def test_command_line_wins_over_file_and_file_over_defaults(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("schedule: {max_steps: 7, warmup_steps: 3}\nbackbone: native-tiny\n")
    config = load(f"config={file}", "schedule.max_steps=9")
    assert (config.schedule.max_steps, config.schedule.warmup_steps) == (9, 3)
    assert config.backbone.hyperparameters["n_layers"] == 1


def test_file_may_name_datasets_and_group_options(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("logger: wandb\ndatasets:\n  b: {path: b, level_of_theory: LDA, head: shared}\n")
    config = load(f"config={file}")
    assert config.logger.wandb and set(config.datasets) == {"a", "b"} and config.datasets["b"].head == "shared"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sede=3", "option 'sede' is not known .did you mean 'seed'.."),
        ("+sede=3", "option 'sede' is not known"),
        ("optimizer.learning_rat=1", "'optimizer.learning_rat' is not known .did you mean 'learning_rate'"),
        ("datasets.a.level=PBE", "'datasets.a.level' is not known .did you mean 'level_of_theory'"),
        ("backbone=nativ-small", "backbone=nativ-small is not known .did you mean 'native-small'"),
        ("schedule.max_steps=many", "schedule.max_steps: Value 'many'"),
        ("datasets.a=3", "datasets.a"),
        ("datasets.a.labels.energy.key=E", "'datasets.a.labels.energy' is not known: 'datasets.a.labels' has no options .*sources.<label>"),
        ("datasets.a.labels=energy", "'datasets.a.labels' takes a list, here it is 'energy'; write 'datasets.a.labels=.energy.'"),
        ("seed.first=3", "'seed.first' is not known: 'seed' has no options of its own$"),
        ("seed=1,2", "seed: Value '1,2'"),
        ("~seed", "deletes or sweeps"),
        ("seed", "cannot read 'seed'; write key=value"),
        ("config=nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_misuse_is_one_sentence_that_names_it(word, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load(word)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["PBE, VASP (520 eV)", "wB97M-D3(BJ)/def2-TZVPPD", "PBE+U", "a^b", "r2SCAN: VASP"])
def test_a_level_of_theory_needs_no_quotes_of_its_own(text):
    assert load(f"datasets.a.level_of_theory={text}").datasets["a"].level_of_theory == text


def test_missing_mandatory_value_is_named():
    with pytest.raises(ValueError, match="run is not set; add run="):
        load_config("pretrain", PretrainConfig, DATASET)


def test_broken_yaml_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1,\n")
    with pytest.raises(ValueError, match="bad.yaml: not valid YAML"):
        load(f"config={tmp_path / 'bad.yaml'}")


#: eight values, eight of these eights, and so on
BOMB = b"a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n"
BOMB += b"".join(b"a%d: &a%d [%s]\n" % (k, k, b", ".join([b"*a%d" % (k - 1)] * 8)) for k in range(1, 12))

BROKEN = {
    b"a: 1\nname: caf\xe9\n": "line 2 is not UTF-8 text (byte 0xe9); save the file as UTF-8",
    b"optimizer: &a [*a]\n": "what begins in line 1 contains itself; take out the alias",
    BOMB: "with its aliases (*name) written out it has 9.0e+10 values",
    b"a: " + b"[" * 3000: "lie inside each other too deep",
    b"[1, 2]\n": "expected keys and values at the top, found list",
    b"a: \x00\n": "not valid YAML",
}


@pytest.mark.parametrize("content", BROKEN)
def test_file_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ValueError, match="bad.yaml: ") as refused:
        load(f"config={tmp_path / 'bad.yaml'}")
    assert BROKEN[content] in str(refused.value)


@pytest.mark.parametrize("content", BROKEN)
def test_damaged_configuration_of_a_run_is_named_with_another_way_to_continue(tmp_path, content):
    (tmp_path / "resolved_config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match="resolved_config.yaml: .*give the whole command line of the run instead, with run=") as refused:
        load_config("pretrain", PretrainConfig, [f"resume={tmp_path}"])
    assert BROKEN[content] in str(refused.value)


@pytest.mark.parametrize(("line", "said"), [("nonsense: 1", "option 'nonsense' is not known"), ("seed: x", "configuration seed: ")])
def test_configuration_of_a_run_that_does_not_fit_is_named(tmp_path, line, said):
    (tmp_path / "resolved_config.yaml").write_text(to_yaml(load()).replace("seed: 0", line))
    with pytest.raises(ValueError, match=f"resolved_config.yaml: {said}.*give the whole command line of the run instead"):
        load_config("pretrain", PretrainConfig, [f"resume={tmp_path}"])


def test_resolved_configuration_gives_the_same_run_again(tmp_path):
    config = load("optimizer.clip_norm=null", "datasets.a.sources.energy.key=E", "datasets.a.sources.energy.unit=hartree")
    (tmp_path / "resolved_config.yaml").write_text(to_yaml(config))
    again = load_config("pretrain", PretrainConfig, [f"resume={tmp_path}"])
    assert again.run == str(tmp_path)
    again.run = config.run
    assert again == config


def test_resumed_run_takes_no_group(tmp_path):
    (tmp_path / "resolved_config.yaml").write_text(to_yaml(load()))
    with pytest.raises(ValueError, match="'backbone=native-tiny' chooses a group"):
        load_config("pretrain", PretrainConfig, [f"resume={tmp_path}", "backbone=native-tiny"])


def test_resume_of_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a run folder"):
        load_config("pretrain", PretrainConfig, [f"resume={tmp_path / 'nothing'}"])
