"""The study around its runs, which a stand-in of milliseconds does here; tests/integration/test_study.py has a real one."""

import json

import numpy as np
import pytest
import torch

from unipot.cli import main
from unipot.data.store import Store, StoreWriter
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.structure import Structure
from unipot.workflows.studies import runs as study_runs
from unipot.workflows.studies.targets import frames_of
from unipot.zoo.artifact import save_artifact

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
#: writes a force MAE of 1 / frames, halved for "tuned"; fails for the (strategy, frames) that the file "broken" names
STAND_IN = """
import json, pathlib, sys
file = pathlib.Path(sys.argv[1]); s = json.loads(file.read_text()); here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls: calls.write(s["target"] + " " + s["strategy"] + " " + str(s["n_frames"]) + "\\n")
if (here / "broken").exists() and (here / "broken").read_text() == s["strategy"] + " " + str(s["n_frames"]):
    sys.exit("the disk is on fire")
mae = (0.5 if s["strategy"] == "tuned" else 1.0) / s["n_frames"]
errors = {t: {"forces": {"mae": mae, "rmse": mae}} for t in s["tests"]}
own = {k: s[k] for k in ("target", "strategy", "n_frames", "seed", "stamp")}
(file.parent / "result.json").write_text(json.dumps({**own, "errors": errors}))
"""


def write_frames(path, n, seed):
    rng = np.random.default_rng(seed)
    with StoreWriter(path, name="frames", level_of_theory="PBE", labels=("energy", "forces")) as writer:
        for k in range(n):
            labels = {"energy": -14 + 0.1 * rng.normal(), "forces": 0.1 * rng.normal(size=(3, 3))}
            positions = WATER + 0.05 * rng.normal(size=(3, 3))
            writer.add(Structure(atomic_numbers=[8, 1, 1], positions=positions, labels=labels, id=f"f{k}", group=f"path-{k % 5}"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 4, "n_vector_channels": 2, "n_layers": 1})
    known = np.isin(np.arange(119), [1, 8])
    heads = HeadBank()
    reference = CompositionReference(np.where(known, -5.0, 0.0), known)
    heads.add(Head("pbe", level_of_theory="PBE", n_channels=4, n_hidden=4, reference=reference))
    golden = [Structure(atomic_numbers=[8, 1, 1], positions=WATER, id="water")]
    potential, card = Potential(backbone, heads).eval(), {"name": "m", "licence": "CC0-1.0"}
    save_artifact(folder / "model.safetensors", potential, golden=golden, card=card)
    write_frames(folder / "water.unipot", 20, seed=0)
    write_frames(folder / "held.unipot", 6, seed=1)
    return folder


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Folder of the stand-in, with its list of calls."""
    folder = tmp_path / "worker"
    folder.mkdir()
    (folder / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(study_runs, "WORKER", ("-m", "stand_in"))
    monkeypatch.setattr("unipot.workflows.study.learning_curve_figure", lambda points: b"\x89PNG, drawn in test_learning_curves.py")
    monkeypatch.delenv("UNIPOT_DEBUG", raising=False)
    return folder


@pytest.fixture
def study(files, tmp_path, stand_in):
    def run(*words):
        return main(
            [
                "study", "learning-curve", f"checkpoint={files / 'model.safetensors'}", f"output={tmp_path / 'out'}", "frames=[5,10,50]",
                "seeds=[0]", "strategies.finetune=null", "strategies.tuned.overrides=[]", "strategies.tuned.frames=[5]",
                *(words or (f"data={files / 'water.unipot'}", f"test_data={files / 'held.unipot'}", "max_test_frames=4")),
            ]
        )  # fmt: skip

    return run


def calls(stand_in):
    return (stand_in / "calls").read_text().splitlines() if (stand_in / "calls").exists() else []


def test_study_runs_reports_and_does_not_repeat(study, stand_in, tmp_path, capsys, files):
    assert study() == 0
    assert sorted(calls(stand_in)) == ["water from-scratch 10", "water from-scratch 20", "water from-scratch 5", "water tuned 5"]
    content = json.loads((tmp_path / "out" / "study.json").read_text())
    assert content["runs"] == {"planned": 4, "finished": 4, "failed": 0}
    assert content["targets"]["water"]["tests"] == {"test": {"frames": 6, "used": 4}}
    (median,) = content["medians"]
    assert (median["strategy"], median["n_frames"], median["low"], median["n_bounds"]) == ("tuned", 5, pytest.approx(2.0), 0)
    assert "| tuned | 5 | 2.00 | 1 | 0 |" in (tmp_path / "out" / "study.md").read_text()
    assert (tmp_path / "out" / "study.png").is_file()
    said = capsys.readouterr().out
    assert "20 frames, all of them in place of more, up to 50" in said and "4 of 6 test frames, evenly spread" in said
    assert study() == 0 and len(calls(stand_in)) == 4


def test_changed_settings_are_run_again_and_the_old_run_is_kept(study, stand_in, tmp_path, files):
    usual = (f"data={files / 'water.unipot'}", f"test_data={files / 'held.unipot'}")
    assert study(*usual) == 0
    assert study(*usual, 'strategies.tuned.overrides=["schedule.max_steps=7"]') == 0
    assert calls(stand_in)[4:] == ["water tuned 5"]
    assert (tmp_path / "out" / "water" / "tuned" / "n5-seed0.replaced-1" / "result.json").is_file()


def test_a_failing_run_is_reported_the_others_are_done_and_it_is_tried_again(study, stand_in, tmp_path, capsys):
    (stand_in / "broken").write_text("from-scratch 10")
    assert study() == 2
    assert len(calls(stand_in)) == 4
    error = capsys.readouterr().err
    assert "1 of 4 runs failed: water/from-scratch/n10-seed0" in error and error.count("\n") == 1
    assert "the disk is on fire" in (tmp_path / "out" / "study.md").read_text()
    (stand_in / "broken").unlink()
    assert study() == 0
    assert calls(stand_in)[4:] == ["water from-scratch 10"]


def test_analysis_alone_runs_nothing(study, stand_in, tmp_path, files):
    assert study(f"data={files / 'water.unipot'}", f"test_data={files / 'held.unipot'}", "analyse_only=true") == 0
    assert calls(stand_in) == []
    assert json.loads((tmp_path / "out" / "study.json").read_text())["runs"] == {"planned": 4, "finished": 0, "failed": 0}


def test_test_frames_are_drawn_by_group_where_none_are_given(study, tmp_path, files):
    words = [f"targets.water.{key}" for key in (f"data={files / 'water.unipot'}", "n_test=8")]
    assert study(*words, "analyse_only=true") == 0
    learn, drawn = (Store(next((tmp_path / "out" / "water" / "data").glob(f"water-{part}-*.unipot"))) for part in ("learn", "drawn"))
    assert (len(learn), len(drawn)) == (12, 8)
    assert not set(learn.groups.tolist()) & set(drawn.groups.tolist())


def test_frames_beyond_those_there_are_become_all_of_them_once():
    assert frames_of([10, 25, 100, 300], 58) == [10, 25, 58]
    assert frames_of([10, 58, 100], 58) == [10, 58]
    assert frames_of([10, 25], 58) == [10, 25]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["analyse_only=false"], "there is no target; add data=<frames>"),
        (["data={files}/water.unipot", "reference=scratch"], "reference is 'scratch', but the strategies are: from-scratch, tuned"),
        (["data={files}/water.unipot", "frames=[1,10]"], "frames holds 1; give numbers from 2"),
        (["data={files}/none.extxyz"], "none.extxyz"),
        (["data={files}/water.unipot", "test_data={files}/none.extxyz"], "none.extxyz"),
        (["data={files}/water.unipot", "checkpoint={files}/none.safetensors"], "none.safetensors"),
        (["data={files}/water.unipot", 'strategies.tuned.overrides=["sede=1"]'], "strategies.tuned: option 'sede' is not known"),
        (["data={files}/water.unipot", 'strategies.tuned.overrides=["seed=1"]'], "sets what the study decides for each run; leave seed"),
        (["data={files}/water.unipot", "strategies.tuned.step=1"], "strategies.tuned: option 'step' is not known"),
        (["data={files}/water.unipot", "seeds=[]"], "seeds is empty"),
        (["data={files}/water.unipot", "jobs=0"], "jobs is 0; give at least 1"),
        (["data={files}/water.unipot", "test_fraction=0.9"], "test frames; give a part above 0, at most 0.5"),
        (["targets.a$b.data={files}/water.unipot"], "names a folder"),
        (["data={files}/water.unipot", "targets.a.data=b"], "targets and data are both given"),
        (["targets.a.labels=[energy]"], "targets.a.data is not set"),
    ],
)
def test_bad_input_gets_one_sentence(study, stand_in, files, capsys, words, sentence):
    assert study(*(word.replace("{files}", str(files)) for word in words)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and error.startswith("unipot: error: ")
    assert calls(stand_in) == []


@pytest.mark.parametrize("words", [[], ["learning-curves"], ["data=a"]])
def test_an_unknown_kind_of_study_is_refused(capsys, monkeypatch, words):
    monkeypatch.delenv("UNIPOT_DEBUG", raising=False)
    assert main(["study", *words]) == 2
    assert "unipot study is followed by one of: learning-curve" in capsys.readouterr().err
