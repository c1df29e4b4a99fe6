"""Pretrain on two toy sets, fine-tune on a third, evaluate and report, all through the command line."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from unipot.batch import collate
from unipot.calculator import UnipotCalculator
from unipot.cli import main
from unipot.evaluation.records import Evaluation
from unipot.structure import Structure
from unipot.zoo.artifact import load_artifact, load_potential

LEVEL_SHIFT = -7.25  # eV/atom between the user's level of theory and EMT


def user_frames(n, seed):
    """Distorted methanol labelled by EMT on another energy zero."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = molecule("CH3OH")
        atoms.positions += 0.06 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy() + LEVEL_SHIFT * len(atoms), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def files(tmp_path_factory, toy_data):
    folder = tmp_path_factory.mktemp("finetune")
    write(folder / "train.extxyz", user_frames(24, seed=1))
    write(folder / "test.extxyz", user_frames(12, seed=2))
    # carbon, hydrogen and oxygen are in the molecules, so that its head knows them
    return {**toy_data, "train": folder / "train.extxyz", "test": folder / "test.extxyz", "folder": folder}


@pytest.fixture(scope="module")
def pretrained(files):
    run = files["folder"] / "pretrain"
    arguments = [
        "pretrain", f"run={run}", "experiment=smoke", "trainer.threads=1", "trainer.progress=false",
        f"datasets.metals.path={files['metals']}", "datasets.metals.level_of_theory=EMT-metals",
        f"datasets.molecules.path={files['molecules']}", "datasets.molecules.level_of_theory=EMT-molecules",
    ]  # fmt: skip
    assert main(arguments) == 0
    return run


def finetune(files, pretrained, run, *overrides, steps=12):
    return main(
        [
            "finetune", f"checkpoint={pretrained / 'best.safetensors'}", f"data={files['train']}", f"run={run}",
            f"schedule.max_steps={steps}", "schedule.warmup_steps=2", "trainer.validate_every=4", "trainer.threads=1",
            "trainer.progress=false", "small_data=off", *overrides,
        ]
    )  # fmt: skip


#: options of `run`: everything that a run can compute
FULL = ("name=methanol", "alignment=auto", "uncertainty=last-layer")


@pytest.fixture(scope="module")
def run(files, pretrained):
    folder = files["folder"] / "tuned"
    assert finetune(files, pretrained, folder, f"test_data={files['test']}", f"pretrain_run={pretrained}", *FULL) == 0
    return folder


@pytest.fixture(scope="module")
def scratch(files, pretrained):
    folder = files["folder"] / "scratch"
    assert finetune(files, pretrained, folder, f"test_data={files['test']}", "from_scratch=true", "name=methanol") == 0
    return folder


def logged(run):
    with (run / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): row for row in csv.DictReader(file)}


def batch_of(potential, atoms, head):
    index = potential.heads.index(head)
    return collate([Structure.from_ase(atoms)], cutoff=potential.cutoff, head_index=[index], dtype=potential.dtype)


def test_zero_learning_steps_of_the_new_head_keep_the_parents_forces_bitwise(files, pretrained):
    """Step-0 contract through the whole workflow: one step at a rate of 1e-30 changes no float32 weight."""
    folder = files["folder"] / "still"
    still = ("optimizer.learning_rate=1e-30", "optimizer.weight_decay=0", "alignment=shift")
    assert finetune(files, pretrained, folder, *still, steps=1) == 0
    before, after = load_potential(pretrained / "best.safetensors"), load_potential(folder / "last.safetensors")
    alignment = json.loads((folder / "alignment_report.json").read_text())["alignment"]
    shift = alignment["fit"]["shift_per_element_eV"]
    for atoms in read(files["test"], ":"):
        old, new = before(batch_of(before, atoms, alignment["parent"])), after(batch_of(after, atoms, alignment["head"]))
        assert torch.equal(old.forces, new.forces)
        stated = sum(shift[symbol] for symbol in atoms.get_chemical_symbols())
        assert float(new.energy - old.energy) == pytest.approx(stated, abs=1e-9)


def test_heads_of_the_checkpoint_are_kept_bitwise(pretrained, run):
    old, new = (load_potential(path / "best.safetensors") for path in (pretrained, run))
    assert new.head_names == (*old.head_names, "methanol")
    for name in old.head_names:
        kept = new.heads[name].state_dict()
        assert all(torch.equal(tensor, kept[key]) for key, tensor in old.heads[name].state_dict().items())


def test_best_weights_are_no_worse_than_those_before_the_first_step(run):
    rows, best = logged(run), json.loads((run / "finetune_summary.json").read_text())["best_step"]
    assert float(rows[best]["validation/selection"]) <= float(rows[0]["validation/selection"])


def test_the_level_shift_is_found(run):
    fit = json.loads((run / "alignment_report.json").read_text())["alignment"]["fit"]
    assert fit["rank"] == 1
    assert fit["rmse_after_eV_per_atom"] < 0.1 * fit["rmse_before_eV_per_atom"]


def test_choice_of_the_parent_is_in_the_card(run):
    card = load_artifact(run / "best.safetensors").card["finetune"]
    assert {score["head"] for score in card["parents"]} == {"metals", "molecules"}
    assert card["alignment"]["parent"] == card["parents"][0]["head"]
    assert (card["head"], card["method"]) == ("methanol", "full")


def test_evaluate_gives_the_logged_validation_numbers_exactly(run, tmp_path):
    assert main(["evaluate", f"checkpoint={run / 'last.safetensors'}", f"output={tmp_path}"]) == 0
    (table,) = json.loads((tmp_path / "metrics.json").read_text())
    row = logged(run)[12]
    compared = 0
    for entry in table["rows"]:
        for statistic in ("mae", "rmse", "cosine", "within"):
            text = row.get(f"validation/methanol/{entry['property']}/{statistic}")
            if entry["element"] is None and entry[statistic] is not None and text:
                assert entry[statistic] == float(text)
                compared += 1
    assert compared >= 8


def test_evaluate_gives_the_logged_numbers_of_pretraining_exactly(pretrained, tmp_path):
    assert main(["evaluate", f"checkpoint={pretrained / 'last.safetensors'}", f"output={tmp_path}"]) == 0
    row = logged(pretrained)[20]
    for table in json.loads((tmp_path / "metrics.json").read_text()):
        forces = next(r for r in table["rows"] if r["property"] == "forces" and r["element"] is None)
        assert forces["mae"] == float(row[f"validation/{table['dataset']}/forces/mae"])


def test_evaluate_of_the_test_file_equals_the_table_of_the_run(files, run, tmp_path):
    arguments = ["evaluate", f"checkpoint={run / 'best.safetensors'}", f"data={files['test']}", "head=methanol", f"output={tmp_path}"]
    assert main(arguments) == 0
    (found,) = Evaluation.load_all(tmp_path / "evaluations").values()
    assert found.get("forces", "mae") == Evaluation.load(run / "evaluations" / "final").get("forces", "mae")
    expected = {"metrics.json", "metrics.md", "force_error_by_element.svg", f"calibration_{found.dataset}.png"}
    assert expected <= {p.name for p in tmp_path.iterdir()}
    (table,) = json.loads((tmp_path / "metrics.json").read_text())
    energy, differences, forces = table["error_bars"]
    assert (energy["property"], energy["n"], forces["n"]) == ("energy", 12, 12 * 6 * 3)
    assert (differences["property"], differences["n"]) == ("energy differences", 11)
    stored = load_potential(run / "best.safetensors").heads["methanol"].posterior.calibration.tolist()
    assert [energy["factor"], forces["factor"]] == stored and differences["factor"] == energy["factor"]
    assert "error bars of head methanol" in (tmp_path / "metrics.md").read_text()


def test_pretraining_sets_are_measured_before_and_after(run):
    found = {path.stem for path in (run / "evaluations").glob("*.json")}
    assert found == {"zero_shot", "final", *(f"{when}_{name}" for when in ("before", "after") for name in ("metals", "molecules"))}


def test_heads_only_leaves_the_backbone_bitwise(files, pretrained, tmp_path):
    assert finetune(files, pretrained, tmp_path, "finetune=heads-only", "n_train=10", steps=3) == 0
    old, new = (load_potential(path / "best.safetensors").backbone.state_dict() for path in (pretrained, tmp_path))
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())
    summary = json.loads((tmp_path / "finetune_summary.json").read_text())
    assert (summary["n_frames"], summary["n_training"], summary["n_validation"]) == (10, 10, 0)


def test_replay_trains_the_old_head_too(files, pretrained, tmp_path):
    replay = [f"replay.molecules.path={files['molecules']}", "replay.molecules.level_of_theory=EMT-molecules"]
    assert finetune(files, pretrained, tmp_path, *replay, "mixture.structures_per_step=4", steps=4) == 0
    old, new = (load_potential(path / "last.safetensors").heads["molecules"].state_dict() for path in (pretrained, tmp_path))
    assert any(not torch.equal(tensor, new[name]) for name, tensor in old.items())


def test_replayed_sets_do_not_choose_the_weights_where_no_frame_is_held_out(files, pretrained, tmp_path):
    """They have validation frames, the user's set has none: the last weights are the result, not the first."""
    replay = ("replay_pretrain_run=true", f"pretrain_run={pretrained}", "mixture.structures_per_step=4", "validation_fraction=0")
    assert finetune(files, pretrained, tmp_path, *replay, "uncertainty=none", steps=4) == 0
    last, best = (load_potential(tmp_path / f"{name}.safetensors").state_dict() for name in ("last", "best"))
    assert all(torch.equal(value, best[name]) for name, value in last.items())
    assert json.loads((tmp_path / "finetune_summary.json").read_text())["best_step"] == 4


def test_the_pretraining_run_is_replayed_without_naming_its_sets(files, pretrained, tmp_path):
    words = ("replay_pretrain_run=true", f"pretrain_run={pretrained}", "mixture.structures_per_step=4")
    assert finetune(files, pretrained, tmp_path, *words, steps=4) == 0
    card = load_artifact(tmp_path / "last.safetensors").card
    assert [item["name"] for item in card["datasets"][1:]] == ["metals", "molecules"]
    old, new = (load_potential(path / "last.safetensors").heads for path in (pretrained, tmp_path))
    for head in ("metals", "molecules"):
        assert any(not torch.equal(tensor, new[head].state_dict()[name]) for name, tensor in old[head].state_dict().items()), head


def test_one_word_keeps_pretraining_and_needs_its_run(files, pretrained, tmp_path, capsys):
    assert finetune(files, pretrained, tmp_path / "without", "preset=keep-pretraining", steps=1) == 2
    assert "give that run's folder: pretrain_run=runs/..." in capsys.readouterr().err
    words = ("preset=keep-pretraining", f"pretrain_run={pretrained}", "mixture.structures_per_step=10")
    assert finetune(files, pretrained, tmp_path / "run", *words, steps=2) == 0
    card = load_artifact(tmp_path / "run" / "last.safetensors").card
    assert [item["name"] for item in card["datasets"][1:]] == ["metals", "molecules"]
    assert len(list((tmp_path / "run" / "evaluations").glob("after_*.json"))) == 2  # what was forgotten is measured


@pytest.mark.parametrize(
    ("overrides", "steps_of"),
    [
        (["atoms_per_step=14"], 2),  # methanol has six atoms
        (["atoms_per_step=1"], 1),
        (["atoms_per_step=320"], 5),
        (["atoms_per_step=14", "mixture.structures_per_step=4"], 4),
    ],
)
def test_large_structures_go_fewer_to_a_step_unless_the_user_says_how_many(files, pretrained, tmp_path, capsys, overrides, steps_of):
    assert finetune(files, pretrained, tmp_path / "run", "teacher.method=none", "uncertainty=none", *overrides, steps=1) == 0
    assert (f"{steps_of} structures a step instead of 5" in capsys.readouterr().out) == (steps_of in (1, 2))
    assert json.loads((tmp_path / "run" / "finetune_summary.json").read_text())["structures_per_step"] == steps_of


def test_finished_run_is_not_repeated(files, pretrained, run):
    before = {name: load_artifact(run / f"{name}.safetensors").card["sha256"] for name in ("best", "last")}
    rows = logged(run)
    assert finetune(files, pretrained, run, f"test_data={files['test']}", f"pretrain_run={pretrained}", *FULL) == 0
    assert {name: load_artifact(run / f"{name}.safetensors").card["sha256"] for name in ("best", "last")} == before
    assert logged(run) == rows


def test_report_compares_the_runs_in_one_file(files, pretrained, run, scratch, tmp_path):
    output = tmp_path / "report.html"
    assert main(["report", f"pretrain_run={pretrained}", f"finetune_runs=[{run},{scratch}]", f"output={output}"]) == 0
    page = output.read_text(encoding="utf-8")
    for text in ("zero-shot", "fine-tuned (full)", "from scratch", "Alignment of the new head", "before and after fine-tuning"):
        assert text in page
    assert all(target.startswith(("data:image/", "#")) for target in re.findall(r'(?:src|href)="([^"]*)"', page))


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("parent_head=molecule", "did you mean 'molecules'"),
        ("labels=[energy,stress]", "carries the label 'stress'"),
        ("n_train=500", "n_train is 500, but there are 24 usable frames"),
        ("alignment=best", "alignment is 'best'; use one of: auto, shift, last-layer, value-layer"),
        ("uncertainty=yes", "uncertainty is 'yes'; use one of: last-layer, ensemble, none"),
        ("finetune=ful", "options are: freeze-k, full, heads-only, layer-wise"),
        ("learning_rate=1", "'learning_rate' is not known"),
        ("from_scratch=true parent_head=metals", "neither a parent_head nor replay"),
        ("replay_pretrain_run=true", "give that run's folder: pretrain_run=runs/..."),
        ("data=missing.extxyz", "missing.extxyz"),
        ("checkpoint=missing.safetensors", "missing.safetensors is not there"),
        ("head=molecules", "head 'molecules' exists already"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_two(files, pretrained, tmp_path, capsys, override, sentence):
    assert finetune(files, pretrained, tmp_path, *override.split()) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_frames_without_the_label_key_are_refused_with_the_keys_there_are(files, pretrained, tmp_path, capsys):
    atoms = molecule("CH3OH")
    atoms.info["my_number"] = -1.0
    write(tmp_path / "other.extxyz", [atoms])
    assert finetune(files, pretrained, tmp_path / "run", f"data={tmp_path / 'other.extxyz'}") == 2
    assert "my_number" in capsys.readouterr().err


def test_evaluate_names_the_element_a_head_does_not_know(files, run, capsys, tmp_path):
    arguments = ["evaluate", f"checkpoint={run / 'best.safetensors'}", f"data={files['metals']}", "head=methanol", f"output={tmp_path}"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "head 'methanol'" in error and "Cu" in error


def test_evaluate_lists_the_heads_when_none_fits(files, pretrained, capsys, tmp_path):
    arguments = ["evaluate", f"checkpoint={pretrained / 'best.safetensors'}", f"data={files['test']}", f"output={tmp_path}"]
    assert main(arguments) == 2
    assert "one of: metals, molecules" in capsys.readouterr().err


def test_the_card_tells_which_elements_the_frames_of_each_head_held(files, run):
    heads = load_artifact(run / "best.safetensors").card["heads"]
    assert heads["methanol"]["trained_elements"] == ["H", "C", "O"]
    assert heads["molecules"]["trained_elements"] == ["H", "C", "N", "O"] == heads["methanol"]["elements"]


def test_alignment_candidates_and_error_bars_are_in_the_artifact(files, run):
    card = load_artifact(run / "best.safetensors").card
    readout = card["finetune"]["alignment"]["readout"]
    shift, *others = readout["held_out"]
    assert (shift["candidate"], readout["asked"]) == ("shift", "auto")
    chosen = next(entry for entry in readout["held_out"] if entry["candidate"] == readout["chosen"])
    assert others and chosen["forces"] <= shift["forces"] and chosen["energy"] <= shift["energy"]
    assert {"energy_mae", "force_mae", "stress_mae"} <= card["finetune"]["parents"][0].keys()
    assert card["uncertainty"]["calibrated_on"] == "held-out"
    atoms = read(files["test"], 0)
    atoms.calc = UnipotCalculator(run / "best.safetensors", head="methanol", uncertainty=True)
    atoms.get_potential_energy()
    assert atoms.calc.results["energy_uncertainty"] > 0
    assert atoms.calc.results["forces_uncertainty"].shape == (len(atoms), 3)


def test_an_energy_of_a_composition_that_the_frames_leave_open_is_as_uncertain_as_the_shift(files, run):
    atoms, own = molecule("H2O"), read(files["test"], 0)
    for each in (atoms, own):
        each.calc = UnipotCalculator(run / "best.safetensors", head="methanol", uncertainty=True)
        each.get_potential_energy()
    unlike = 3 * np.hypot(1 / 6, 1 / 6)  # atoms times the distance between the atomic fractions of H2O and of CH3OH
    assert atoms.calc.results["energy_uncertainty"] > 0.8 * abs(LEVEL_SHIFT) * unlike
    assert own.calc.results["energy_uncertainty"] < 0.1 * abs(LEVEL_SHIFT)


def test_uncertainty_none_leaves_the_artifact_without_error_bars(files, pretrained, tmp_path):
    assert finetune(files, pretrained, tmp_path, "uncertainty=none", "alignment=last-layer", "n_train=10", steps=2) == 0
    artifact = load_artifact(tmp_path / "best.safetensors")
    assert all(artifact.potential.heads[name].posterior is None for name in artifact.potential.head_names)
    assert artifact.card["finetune"]["alignment"]["readout"]["chosen"] == "last-layer"
    assert "uncertainty" not in artifact.card


def test_energies_that_shifts_explain_leave_no_error_bars_and_a_sentence(files, pretrained, tmp_path, capsys):
    """Error bars are on by default; a finished training does not fail for them."""
    frames = []
    for name in ("H2O", "CO"):
        atoms = molecule(name)
        atoms.calc = SinglePointCalculator(atoms, energy=-3.0 * len(atoms))
        frames.append(atoms)
    write(tmp_path / "energies.extxyz", frames)
    assert finetune({"train": tmp_path / "energies.extxyz"}, pretrained, tmp_path / "run", steps=2) == 0
    assert "no error bars for head 'energies': there are no rows to fit" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "run" / "best.safetensors").exists()
