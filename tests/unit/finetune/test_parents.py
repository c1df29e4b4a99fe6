from dataclasses import fields, replace

import pytest
import torch

from unipot.finetune.alignment.align import for_head
from unipot.finetune.alignment.parents import ParentScore, score_parents, unrelated


def labelled_by(potential, head, batches):
    """The batches with the energies and forces of `head` as labels."""
    found = []
    for batch in batches:
        own = for_head(batch, potential.heads.index(head))
        predictions = potential(own)
        found.append(replace(own, labels={"energy": predictions.energy, "forces": predictions.forces}))
    return found


def test_the_head_that_made_the_labels_is_first(potential, batches):
    scores = score_parents(potential, labelled_by(potential, "pbe", batches))
    assert [s.head for s in scores] == ["pbe", "rpbe"]
    assert scores[0].force_mae == 0.0
    assert scores[0].energy_rmse < 1e-9
    assert scores[0].force_cosine == pytest.approx(1.0, abs=1e-6)
    assert scores[1].force_mae > 1e-4


def test_a_level_shift_between_label_and_head_does_not_count(potential, batches):
    moved = [
        replace(b, labels={**b.labels, "energy": b.labels["energy"] - 500.0 * b.n_atoms_per_structure})
        for b in labelled_by(potential, "pbe", batches)
    ]
    assert score_parents(potential, moved)[0].energy_rmse < 1e-9


def test_unknown_elements_are_reported_and_nothing_changes(potential, batches):
    before = {name: tensor.clone() for name, tensor in potential.state_dict().items()}
    scores = {s.head: s for s in score_parents(potential, batches)}
    assert scores["rpbe"].unknown_elements == ("C",)
    assert scores["pbe"].unknown_elements == ()
    assert all(torch.equal(tensor, potential.state_dict()[name]) for name, tensor in before.items())


def test_without_energies_forces_decide(potential, unlabelled_batches):
    scores = score_parents(potential, unlabelled_batches)
    assert scores[0].to_dict()["energy_rmse"] is None
    assert scores[0].force_mae <= scores[1].force_mae


def test_unknown_head_lists_the_heads(potential, batches):
    with pytest.raises(KeyError, match="available: pbe, rpbe"):
        score_parents(potential, batches, ["rbpe"])


@pytest.mark.parametrize(("cosines", "said"), [((0.1, -0.2), True), ((0.1, 0.9), False), ((float("nan"),), False)])
def test_heads_that_know_nothing_of_the_frames_are_said(cosines, said):
    names = [f.name for f in fields(ParentScore)]
    empty = dict.fromkeys(names, float("nan")) | {"head": "a", "level_of_theory": "A", "unknown_elements": ()}
    sentence = unrelated([ParentScore(**empty | {"force_cosine": cosine}) for cosine in cosines])
    assert (sentence is not None and "largest cosine 0.10" in sentence) is said


def score(head, cosine=0.9, force_mae=0.1, energy_rmse=0.01, unknown=()):
    names = [f.name for f in fields(ParentScore)]
    own = {"head": head, "level_of_theory": "A", "unknown_elements": unknown, "force_cosine": cosine}
    return ParentScore(**dict.fromkeys(names, float("nan")) | own | {"force_mae": force_mae, "energy_rmse": energy_rmse})


def test_a_head_whose_forces_do_not_follow_comes_after_one_whose_do():
    silent = score("silent", cosine=-0.04, force_mae=0.08)
    assert score("follows", cosine=0.6, force_mae=0.12).rank < silent.rank


def test_energies_decide_between_heads_of_nearly_equal_forces():
    assert score("both", force_mae=0.11, energy_rmse=0.005).rank < score("forces", force_mae=0.10, energy_rmse=0.05).rank


def test_a_head_that_knows_all_elements_wins_where_errors_are_close():
    assert score("knows", force_mae=0.12).rank < score("lacks", force_mae=0.10, unknown=("C",)).rank
    assert score("lacks", force_mae=0.03, unknown=("C",)).rank < score("knows", force_mae=0.12).rank
