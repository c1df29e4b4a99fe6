"""Whatever labels a user has, through `unipot finetune`: what is trained on, what is left out, and what is refused or said."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write

from unipot.cli import main
from unipot.data.store import Store
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.structure import Structure
from unipot.workflows.finetuning.replay.pseudo_labels import label_structure
from unipot.zoo import load_artifact, save_artifact

ELEMENTS = (1, 6, 8, 13, 28, 29)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """An untrained model of one head, large enough in scale that its forces are those of matter."""
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 8, "n_vector_channels": 4, "n_layers": 1})
    reference = CompositionReference(np.zeros(119), np.isin(np.arange(119), ELEMENTS))
    bank = HeadBank()
    bank.add(Head("pbe", level_of_theory="PBE", n_channels=backbone.n_channels, reference=reference, scale=2.0))
    return save_artifact(tmp_path_factory.mktemp("labels") / "parent.safetensors", Potential(backbone, bank).eval())


def crystals(n=6, kinds=lambda k: ("energy", "forces", "stress"), seed=0, symbol="Cu"):
    """Rattled and strained crystals labelled by EMT with what `kinds` of the number of the frame says."""
    rng, frames = np.random.default_rng(seed), []
    for k in range(n):
        atoms = bulk(symbol, "fcc", a=3.7, cubic=True)
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
        frames.append(labelled(atoms, EMT(), kinds(k)))
    return frames


def labelled(atoms, calculator, properties):
    atoms.calc = calculator
    results = {name: getattr(atoms, {"energy": "get_potential_energy"}.get(name, f"get_{name}"))() for name in properties}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture
def tune(parent, tmp_path, capsys):
    """Write frames, fine-tune on them for two steps; exit code, what was printed, and the run folder."""

    def run(frames, *overrides, name="mine", steps=2):
        path, folder = tmp_path / f"{name}.extxyz", tmp_path / f"run-{name}"
        write(path, frames)
        capsys.readouterr()
        words = [
            "finetune", f"checkpoint={parent}", f"data={path}", f"run={folder}", f"schedule.max_steps={steps}", "schedule.warmup_steps=1",
            "trainer.threads=1", "trainer.progress=false", *overrides,
        ]  # fmt: skip
        code = main(words)
        out = capsys.readouterr()
        assert "Traceback" not in out.err
        return code, " ".join((out.err if code else out.out).split()), folder

    return run


def weights_of(folder):
    return load_artifact(folder / "last.safetensors").card["sha256"]


def store_of(folder, name="mine"):
    (path,) = (folder / "data").glob(f"{name}-*.unipot")
    return Store(path)


@pytest.mark.parametrize(
    ("kinds", "overrides", "counts"),
    [
        (lambda k: ("energy",), (), {"energy": 6}),
        (lambda k: ("forces",), ("labels=[forces]",), {"forces": 6}),
        (lambda k: ("energy", "forces") if k < 2 else ("energy",), (), {"energy": 6, "forces": 2}),
        (lambda k: ("energy", "forces", "stress") if k < 2 else ("energy", "forces"), (), {"energy": 6, "forces": 6, "stress": 2}),
    ],
    ids=["energy only", "forces only", "energies and a few forces", "stress in part"],
)
def test_trains_on_what_there_is(tune, kinds, overrides, counts):
    code, text, folder = tune(crystals(kinds=kinds), *overrides)
    assert code == 0, text
    assert store_of(folder).metadata["label_counts"] == counts
    loss = text.partition("loss: ")[2].partition("──")[0]
    assert {name for name in ("energy", "forces", "stress") if name in loss} == set(counts)


def test_file_without_energies_is_refused_unless_they_are_not_asked_for(tune):
    code, text, _ = tune(crystals(kinds=lambda k: ("forces",)))
    assert code == 2 and "no frame has the label key 'energy'" in text and "labels=[forces]" in text


@pytest.mark.parametrize("kind", ["adsorption", "formation"])
def test_energies_of_other_kinds_get_a_head_of_that_kind(tune, kind):
    code, text, folder = tune(crystals(), f"energy_kind={kind}")
    assert code == 0
    assert load_artifact(folder / "best.safetensors").card["heads"]["mine"]["energy_kind"] == kind
    assert f"the frames have {kind} ones" in text


def test_forces_of_fixed_atoms_teach_nothing(tune):
    """By `FixAtoms` or by an array `fixed`; the control are atoms that are free."""
    hashes = {}
    pair = np.array([1.0, -1.0, 0.0, 0.0])[:, None]
    cases = {"plain": (0, "constraint"), "spoilt": (pair, "constraint"), "array": (pair, "array"), "free": (pair[::-1], "array")}
    for name, (spoil, fixed) in cases.items():
        frames = crystals()
        for atoms in frames:
            results = dict(atoms.calc.results)
            results["forces"] = results["forces"] + spoil
            atoms.calc = SinglePointCalculator(atoms, **results)
            if fixed == "array":
                atoms.set_array("fixed", np.arange(len(atoms)) < 2)
            else:
                atoms.set_constraint(FixAtoms([0, 1]))
        code, text, folder = tune(frames, "name=mine", "small_data=off", name=name)  # its folds go by the names of frames
        assert code == 0, text
        hashes[name] = weights_of(folder)
    assert hashes["plain"] == hashes["spoilt"] == hashes["array"] != hashes["free"]


def weighted(frames, spoil=0.0):
    """The last frame, and the first two atoms of every frame, weigh nothing; `spoil` eV/Å goes into their forces, net zero, and into
    the energy of the last frame."""
    for k, atoms in enumerate(frames):
        results = dict(atoms.calc.results)
        results["forces"] = results["forces"] + spoil * np.array([1, -1, 0, 0] if k < len(frames) - 1 else [1, 1, -1, -1])[:, None]
        results["energy"] += spoil * (k == len(frames) - 1)
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["weight"] = 0.0 if k == len(frames) - 1 else 1.5
        atoms.set_array("atom_weights", (np.arange(len(atoms)) > 1).astype(float))
    return frames


WEIGHTS = ("labels=[energy,forces,weight,atom_weights]", "name=mine")


def test_what_weighs_nothing_teaches_nothing_and_weights_are_read_only_when_asked_for(tune):
    hashes, widths = {}, {}
    for name, spoil, options in (("a", 0.0, WEIGHTS), ("b", 2.0, WEIGHTS), ("c", 0.0, WEIGHTS[1:]), ("d", 2.0, WEIGHTS[1:])):
        code, text, folder = tune(weighted(crystals(), spoil), *options, "small_data=off", name=name)  # its folds go by names of frames
        assert code == 0, text
        hashes[name] = weights_of(folder)
        found = load_artifact(folder / "best.safetensors").card["uncertainty"]
        widths[name] = [found[label][number] for label in ("energy", "forces") for number in ("factor", "n")]
        assert ("weight" in store_of(folder).labels) == ("atom_weights" in store_of(folder).labels) == (options is WEIGHTS)
    assert hashes["a"] == hashes["b"] and widths["a"] == pytest.approx(widths["b"], rel=1e-6)
    assert len({hashes["a"], hashes["c"], hashes["d"]}) == 3


def test_negative_weight_is_refused(tune):
    frames = weighted(crystals())
    frames[2].info["weight"] = -1.0
    code, text, _ = tune(frames, *WEIGHTS)
    assert code == 2 and "weight is negative (-1)" in text


# bad input


def test_one_frame_is_trained_on_and_what_it_determines_is_said(tune):
    code, text, folder = tune(crystals(1))
    assert code == 0
    assert "all 1 frames are trained on" in text
    assert json.loads((folder / "finetune_summary.json").read_text())["n_training"] == 1


def test_identical_frames_count_once(tune):
    code, text, folder = tune(crystals(3) + crystals(1) * 1 + crystals(3))
    assert code == 0
    assert "4 of 7 frames repeat the geometry of another and are left out" in text
    assert json.loads((folder / "finetune_summary.json").read_text())["n_training"] == 3


def test_frames_of_one_composition_fix_one_shift(tune):
    frames = [labelled(Atoms("CO", [[0, 0, 0], [0, 0, 1.1 + 0.02 * k]]), EMT(), ("energy", "forces")) for k in range(4)]
    code, text, _ = tune(frames)
    assert code == 0 and "determine 1 of 2 element shifts" in text


def taught(parent, scales):
    """Frames whose labels are the parent's own predictions times a factor each, nearly."""
    potential, rng, frames = load_artifact(parent).potential, np.random.default_rng(0), []
    for atoms in crystals(10):
        labels = label_structure(potential, Structure.from_ase(atoms), "pbe", ("energy", "forces", "stress")).labels
        values = {name: factor * labels[name] * (1 + 0.05 * rng.normal(size=labels[name].shape)) for name, factor in scales.items()}
        atoms.calc = SinglePointCalculator(atoms, **{name: float(v) if name == "energy" else v for name, v in values.items()})
        frames.append(atoms)
    return frames


def test_energies_in_another_unit_are_refused_and_all_wrong_labels_are_named(parent, tune):
    code, text, _ = tune(taught(parent, {"energy": 1 / 27.2114, "forces": 1 / 51.42}))
    assert code == 2 and "numbers in hartree are stated to be in eV" in text and "numbers in hartree/bohr" in text


def test_check_of_units_can_be_left_out(parent, tune):
    frames = taught(parent, {"forces": 23.06})
    code, text, _ = tune(frames, "labels=[forces]")
    assert code == 2 and "kcal/mol/A are stated to be in eV/A" in text and "check_labels=false" in text
    assert tune(frames, "labels=[forces]", "check_labels=false")[0] == 0


def test_labels_of_another_functional_than_stated_are_doubted(tune):
    code, text, _ = tune(crystals(), "level_of_theory=PBE")
    assert code == 0 and "stated to be 'PBE' as head 'pbe' is, but their energies differ" in text
    assert "as head 'pbe' is" not in tune(crystals(), "level_of_theory=RPBE", name="other")[1]


def test_element_that_only_the_test_set_has_is_said_or_refused(tune, tmp_path):
    write(tmp_path / "nickel.extxyz", crystals(2, symbol="Ni"))
    write(tmp_path / "silver.extxyz", crystals(2, symbol="Ag"))
    code, text, _ = tune(crystals(), f"test_data={tmp_path / 'nickel.extxyz'}")
    assert code == 0 and "test_data has Ni, which no frame trained on has" in text
    code, text, _ = tune(crystals(), f"test_data={tmp_path / 'silver.extxyz'}", name="again")
    assert code == 2 and "test_data has Ag, which no frame trained on has and the parent head has no reference for" in text


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("finetune=heads-only", "finetune.freeze_groups=1"), "freeze_groups is 1, but method 'heads-only' makes no use of it"),
        (("finetune=freeze-k", "finetune.freeze_groups=0"), "needs freeze_groups of at least 1"),
        (("finetune=full", "finetune.lora.rank=4"), "which has no low-rank updates"),
        (("finetune=full", "finetune.layer_decay=0.5"), "layer_decay is 0.5, but method 'full' makes no use of it"),
        (("from_scratch=true", "finetune=heads-only"), "trains every random weight"),
    ],
)
def test_strategy_options_that_contradict_each_other_are_refused(tune, overrides, sentence):
    code, text, _ = tune(crystals(2), *overrides)
    assert code == 2 and sentence in text


def test_molecules_and_crystals_may_be_mixed(tune):
    frames = crystals(3) + [labelled(molecule("CO"), EMT(), ("energy", "forces"))]
    code, text, folder = tune(frames)
    assert code == 0 and store_of(folder).metadata["label_counts"] == {"energy": 4, "forces": 4, "stress": 3}


# several sets at once


def shifted(frames, per_atom):
    for atoms in frames:
        results = dict(atoms.calc.results)
        atoms.calc = SinglePointCalculator(atoms, **{**results, "energy": results["energy"] + per_atom * len(atoms)})
    return frames


@pytest.fixture
def two_sets(tmp_path):
    """A file of aluminium on another energy zero, and a test file for it."""
    write(tmp_path / "al.extxyz", shifted(crystals(4, seed=1, symbol="Al"), -40.0))
    write(tmp_path / "al-test.extxyz", shifted(crystals(2, seed=2, symbol="Al"), -40.0))
    return ["level_of_theory=RPBE", f"also.al.path={tmp_path / 'al.extxyz'}", "also.al.level_of_theory=LDA"]


def test_two_sets_of_two_levels_of_theory_train_a_head_each(tune, two_sets, tmp_path):
    tests = [f"{key}={tmp_path / 'al-test.extxyz'}" for key in ("also.al.test_data", "also.al.validation_data", "test_data")]
    code, text, folder = tune(crystals(), *two_sets, *tests)
    assert code == 0, text
    card = load_artifact(folder / "best.safetensors").card
    assert {name: head["level_of_theory"] for name, head in card["heads"].items()} == {"pbe": "PBE", "mine": "RPBE", "al": "LDA"}
    alignments = [card["finetune"]["alignment"], card["finetune"]["also"][0]["alignment"]]
    assert [(found["parent"], found["head"]) for found in alignments] == [("pbe", "mine"), ("pbe", "al")]
    assert alignments[1]["fit"]["common_shift_eV_per_atom"] < alignments[0]["fit"]["common_shift_eV_per_atom"] - 30
    heads = load_artifact(folder / "last.safetensors").potential.heads
    for name in ("mine", "al"):
        assert any(not torch.equal(a, b) for a, b in zip(heads["pbe"].parameters(), heads[name].parameters(), strict=True))
    assert {p.stem for p in (folder / "evaluations").glob("*.json")} == {"zero_shot", "final", "zero_shot_al", "final_al"}
    assert json.loads((folder / "finetune_summary.json").read_text())["also"][0]["n_training"] == 4
    assert main(["evaluate", f"checkpoint={folder / 'last.safetensors'}", f"output={tmp_path / 'evaluated'}"]) == 0
    assert "al" in (tmp_path / "evaluated" / "metrics.md").read_text()


def test_every_set_gets_error_bars(tune, two_sets, tmp_path):
    code, text, folder = tune(crystals(), *two_sets)
    assert code == 0, text
    artifact = load_artifact(folder / "best.safetensors")
    heads = artifact.potential.heads
    assert {name for name in heads.names if heads[name].posterior is not None} == {"mine", "al"}
    assert (artifact.card["uncertainty"]["head"], list(artifact.card["further_uncertainty"])) == ("mine", ["al"])


def test_frames_without_energies_are_evaluated_where_that_is_said(parent, tmp_path, capsys):
    write(tmp_path / "forces.extxyz", crystals(3, kinds=lambda k: ("forces",)))
    words = ["evaluate", f"checkpoint={parent}", f"data={tmp_path / 'forces.extxyz'}", f"output={tmp_path / 'out'}"]
    assert main(words) == 2 and "energy" in capsys.readouterr().err
    assert main([*words, "labels=[forces]"]) == 0
    rows = json.loads(next((tmp_path / "out" / "evaluations").glob("*.json")).read_text())["rows"]
    assert {row["property"] for row in rows} == {"forces"}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("also.mine.path={al}",), "also.mine has the name of the set at data"),
        (("also.al.path={al}", "also.al.head=pbe"), "also.al: head 'pbe' exists already"),
        (("also.al.path={al}", "also.al.name=b"), "the key is the name already"),
        (("also.al.path={al}", "from_scratch=true"), "from_scratch=true trains one head"),
        (("also.al.path=nowhere.extxyz",), "nowhere.extxyz"),
    ],
)
def test_mistakes_in_further_sets_get_one_sentence(tune, two_sets, tmp_path, overrides, sentence):
    code, text, _ = tune(crystals(2), *(word.format(al=tmp_path / "al.extxyz") for word in overrides))
    assert code == 2 and sentence in text
