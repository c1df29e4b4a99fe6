"""Closed-form alignment of a readout layer: rows, choice, and what it does to the new head."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unipot.batch import collate
from unipot.finetune.alignment.align import align_head, for_head
from unipot.finetune.alignment.readout_fit import (
    HeldOutErrors,
    assign_folds,
    best_candidate,
    candidates_of,
    fit_readout,
    free_of_composition,
)
from unipot.finetune.linear import readout_rows as rows_module
from unipot.finetune.linear.evidence import maximise_evidence
from unipot.finetune.linear.readout_rows import LAYERS, readout_rows
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.structure import Structure

ELEMENTS = (1, 6, 8)


def reference(elements):
    known = np.isin(np.arange(119), elements)
    return CompositionReference(np.where(known, -100.0 - np.arange(119.0), 0.0), known)


PROPERTIES = ("energy", "forces", "stress")


def truth_of(potential, seed=0):
    """A potential whose first head has another last layer: labels that the last layer can describe exactly."""
    torch.manual_seed(seed)
    weight = potential.heads["pbe"].readout.output.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.add_(0.3 * torch.randn_like(weight))
    return kept


@pytest.fixture
def taught(double):
    """Frames (some periodic) labelled by a head with another last layer and 3 eV/atom more; the potential is the undistilled one."""
    kept = truth_of(double)
    rng, frames = np.random.default_rng(0), []
    for k in range(12):
        numbers = [8, 1, 1] if k % 2 else [6, 1, 1, 1, 1]
        positions = rng.normal(size=(len(numbers), 3)) * 0.1 + np.arange(len(numbers))[:, None] * np.array([0.9, 0.4 * (-1) ** k, 0.3])
        cell = {"cell": np.eye(3) * 6.0, "pbc": (True, True, True)} if k % 3 == 0 else {}
        frames.append(Structure(atomic_numbers=numbers, positions=positions, id=str(k), **cell))
    labelled = []
    for frame in frames:
        wanted = PROPERTIES if frame.pbc.all() else PROPERTIES[:2]
        found = double(collate([frame], cutoff=double.cutoff, dtype=torch.float64), properties=wanted)
        labels = {"energy": float(found.energy) + 3.0 * frame.n_atoms, "forces": found.forces.numpy()}
        if frame.pbc.all():
            labels["stress"] = found.stress[0].detach().numpy()
        labelled.append(replace(frame, labels=labels))
    with torch.no_grad():
        double.heads["pbe"].readout.output.weight.copy_(kept)
    return labelled


@pytest.fixture
def double():
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 16, "n_layers": 2})
    heads = HeadBank()
    heads.add(Head("pbe", level_of_theory="PBE", n_channels=16, n_hidden=8, reference=reference((1, 6, 8, 14)), scale=1.7))
    return Potential(backbone, heads).double().eval()


def packed(potential, frames, size=5):
    return [collate(frames[k : k + size], cutoff=potential.cutoff, dtype=potential.dtype) for k in range(0, len(frames), size)]


def rows_of(potential, frames, size=5, layers=LAYERS):
    return readout_rows(potential, "pbe", packed(potential, frames, size), ELEMENTS, layers)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("property", PROPERTIES)
def test_rows_are_the_derivatives_of_the_predictions(double, taught, layer, property):
    """Exact in both layers: predictions with changed weights minus before = rows · change."""
    before = rows_of(double, taught)[layer]
    module = double.heads["pbe"].readout.output if layer == "last-layer" else double.heads["pbe"].readout.value
    torch.manual_seed(3)
    change = torch.randn_like(module.weight)
    with torch.no_grad():
        module.weight.add_(change)
    after = rows_of(double, taught)[layer]
    moved = before.blocks[property].target - after.blocks[property].target
    assert np.abs(moved).max() > 1e-4
    np.testing.assert_allclose(moved, before.blocks[property].design @ change.numpy().ravel(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
def test_rows_do_not_depend_on_the_packing(double, taught, layer):
    one, other = rows_of(double, taught, 1)[layer], rows_of(double, taught, 7)[layer]
    for name in PROPERTIES:
        assert np.array_equal(one.frames[name], other.frames[name])
        np.testing.assert_allclose(one.blocks[name].design, other.blocks[name].design, rtol=0, atol=1e-12)


def test_a_subset_of_the_components_does_not_depend_on_the_packing(double, taught, monkeypatch):
    everything = rows_of(double, taught)["last-layer"]
    monkeypatch.setattr(rows_module, "EDGE_COMPONENTS", 5 * sum(b.n_edges for b in packed(double, taught)))
    one, other = rows_of(double, taught, 1)["last-layer"], rows_of(double, taught, 7)["last-layer"]
    assert len(one.blocks["forces"].target) == 5 * len(taught) < len(everything.blocks["forces"].target) == everything.n_components
    np.testing.assert_allclose(one.blocks["forces"].design, other.blocks["forces"].design, rtol=0, atol=1e-12)


def test_rotated_frames_give_the_same_weights(double, taught):
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    turned = []
    for frame in taught:
        labels = {**frame.labels, "forces": frame.labels["forces"] @ rotation.T}
        if "stress" in labels:
            labels["stress"] = rotation @ labels["stress"] @ rotation.T
        turned.append(replace(frame, positions=frame.positions @ rotation.T, cell=frame.cell @ rotation.T, labels=labels))
    fits = []
    for frames in (taught, turned):
        rows = rows_of(double, frames, layers=["last-layer"])["last-layer"]
        assert len(rows.blocks["stress"].target) == 9 * 4
        fits.append(maximise_evidence(free_of_composition(rows)).mean)
    np.testing.assert_allclose(fits[0], fits[1], rtol=0, atol=1e-6)


def test_the_labels_of_another_last_layer_are_found_exactly(double, taught):
    report = align_head(double, "pbe", "mine", "CCSD", packed(double, taught), alignment="last-layer")
    assert report.readout.chosen == "last-layer"
    for batch in packed(double, taught):
        own = double(for_head(batch, 1), properties=PROPERTIES)
        torch.testing.assert_close(own.forces, batch.labels["forces"], rtol=0, atol=2e-5)
        torch.testing.assert_close(own.energy, batch.labels["energy"], rtol=0, atol=1e-3)


def test_auto_takes_a_layer_that_helps_and_reports_every_candidate(double, taught):
    report = align_head(double, "pbe", "mine", "CCSD", packed(double, taught), alignment="auto")
    errors = {entry.candidate: entry for entry in report.readout.held_out}
    assert list(errors)[:2] == ["shift", "last-layer"]
    assert report.readout.chosen != "shift"
    assert all(getattr(errors[report.readout.chosen], name) <= getattr(errors["shift"], name) for name in PROPERTIES)
    assert report.to_dict()["readout"]["held_out"][0]["candidate"] == "shift"


def test_shift_is_kept_bitwise_where_no_layer_helps(double, taught):
    rng = np.random.default_rng(0)
    noise = [replace(f, labels={"energy": rng.normal(), "forces": 1e3 * rng.normal(size=(f.n_atoms, 3))}) for f in taught]
    report = align_head(double, "pbe", "mine", "CCSD", packed(double, noise), alignment="auto")
    if report.readout.chosen == "shift":
        batch = packed(double, noise)[0]
        assert torch.equal(double(for_head(batch, 1)).forces, double(for_head(batch, 0)).forces)
    chosen = next(entry for entry in report.readout.held_out if entry.candidate == report.readout.chosen)
    assert chosen.forces <= report.readout.held_out[0].forces and chosen.energy <= report.readout.held_out[0].energy


@pytest.mark.parametrize(
    "errors, chosen",
    [
        ([(1.0, 1.0), (0.9, 0.9)], "b1"),
        ([(1.0, 1.0), (1.01, 0.1)], "shift"),
        ([(1.0, 1.0), (1.0, 1.0)], "shift"),
        ([(1.0, 1.0), (0.9, 0.9), (0.5, 0.9)], "b2"),
        ([(float("nan"), 1.0), (float("nan"), 0.5)], "b1"),
    ],
)
def test_choice_is_never_worse_in_any_property(errors, chosen):
    entries = [
        HeldOutErrors(candidate=f"b{k}" if k else "shift", energy=e, forces=f, stress=float("nan")) for k, (e, f) in enumerate(errors)
    ]
    assert best_candidate(entries) == chosen


def test_other_heads_and_the_backbone_are_bitwise_unchanged(double, taught):
    before = {name: tensor.clone() for name, tensor in double.state_dict().items()}
    align_head(double, "pbe", "mine", "CCSD", packed(double, taught), alignment="value-layer")
    after = double.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not torch.equal(after["heads.heads.mine.readout.value.weight"], before["heads.heads.pbe.readout.value.weight"])


def test_one_frame_keeps_the_shift_and_says_so(double, taught):
    report = align_head(double, "pbe", "mine", "CCSD", packed(double, taught[:1]), alignment="auto")
    assert report.readout.chosen == "shift"
    assert any("there is one frame" in text for text in report.warnings)


def test_identical_frames_cannot_check_each_other(double, taught):
    report = align_head(double, "pbe", "mine", "CCSD", packed(double, taught[:1] * 6), alignment="auto")
    assert report.readout.chosen == "shift"
    assert any("all alike" in text for text in report.warnings)


@pytest.mark.parametrize("labels", [("energy",), ("forces",)])
def test_one_kind_of_label_is_enough(double, taught, labels):
    frames = [replace(f, labels={name: f.labels[name] for name in labels}) for f in taught]
    report = align_head(double, "pbe", "mine", "CCSD", packed(double, frames), alignment="auto")
    shift = report.readout.held_out[0]
    assert np.isnan(shift.forces) == ("forces" not in labels) and np.isnan(shift.energy) == ("energy" not in labels)


def test_unlabelled_frames_are_said(double, taught):
    bare = [replace(f, labels={}) for f in taught]
    assert any(
        "no frame carries a label" in t for t in align_head(double, "pbe", "mine", "X", packed(double, bare), alignment="auto").warnings
    )


def test_unknown_alignment_is_refused_and_adds_no_head(double, taught):
    with pytest.raises(ValueError, match="use one of: auto, shift, last-layer, value-layer"):
        align_head(double, "pbe", "mine", "CCSD", packed(double, taught), alignment="best")
    assert double.head_names == ("pbe",)


def test_groups_are_held_out_together(double, taught):
    rows = rows_of(double, taught, layers=["last-layer"])["last-layer"]
    groups = [str(k // 2) for k in range(12)]
    folds = assign_folds(rows, groups)
    assert folds.max() + 1 == 5
    assert all(folds[2 * k] == folds[2 * k + 1] for k in range(6))


def test_few_directions_of_a_large_layer_are_nested_candidates(double, taught, monkeypatch):
    from unipot.finetune.alignment import readout_fit

    monkeypatch.setattr(readout_fit, "DIRECTIONS", (8, 16))
    rows = rows_of(double, taught, layers=["value-layer"])["value-layer"]
    found = candidates_of(rows, "value-layer")
    assert list(found) == ["value-layer-8", "value-layer-16"]
    basis = found["value-layer-16"].basis
    np.testing.assert_allclose(basis.T @ basis, np.eye(16), atol=1e-10)
    assert np.array_equal(found["value-layer-8"].basis, basis[:, :8])
    assert fit_readout(found["value-layer-8"]).change.shape == (rows.n_weights,)


def test_direct_forces_allow_the_shift_only(taught):
    backbone, heads = build_backbone("native", {"n_channels": 16, "n_layers": 1}), HeadBank()
    options = {"n_vector_channels": backbone.n_vector_channels, "direct_forces": True, "reference": reference(ELEMENTS)}
    heads.add(Head("pbe", level_of_theory="PBE", n_channels=16, **options))
    potential = Potential(backbone, heads).double().eval()
    report = align_head(potential, "pbe", "mine", "CCSD", packed(potential, taught), alignment="auto")
    assert report.readout.chosen == "shift" and any("directly" in text for text in report.warnings)
    with pytest.raises(ValueError, match="use alignment=shift"):
        align_head(potential, "pbe", "other", "CCSD", packed(potential, taught), alignment="last-layer")
