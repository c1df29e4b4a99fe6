"""Normalisation of new property heads, and conformal intervals."""

import numpy as np
import pytest
import torch

from unipot.batch import collate
from unipot.data.scalar_columns import attach_scalars
from unipot.data.store import Store, StoreWriter
from unipot.finetune.properties.property_calibration import calibrate_property, measure_intervals
from unipot.finetune.properties.property_start import new_property_head, require_known_elements
from unipot.models.property_heads import PropertyHead
from unipot.properties import ScalarProperty
from unipot.structure import Structure

SIZES = {"n_channels": 8, "n_hidden": 4, "n_members": 2, "seed": 0}
EXTENSIVE = ScalarProperty(name="mass", key="mass", unit="u", kind="extensive")
INTENSIVE = ScalarProperty(name="gap", key="gap", unit="eV")


def store_of(path, values, numbers=None):
    """Chains of 1 to 3 oxygen and 2 hydrogen atoms; `values` by row, NaN where missing."""
    numbers = numbers or [[1, 1] + [8] * (1 + k % 3) for k in range(len(values))]
    with StoreWriter(path, name="a", level_of_theory="PBE", labels=()) as writer:
        for k, own in enumerate(numbers):
            writer.add(Structure(atomic_numbers=own, positions=np.arange(3.0 * len(own)).reshape(-1, 3), id=f"s{k}"))
    properties = [EXTENSIVE, INTENSIVE]
    attach_scalars(path, properties, {p.name: {f"s{k}": value for k, value in enumerate(values)} for p in properties})
    return Store(path)


def test_an_intensive_head_starts_at_mean_and_deviation(tmp_path):
    values = np.array([1.0, 2.0, np.nan, 6.0, 100.0])
    head = new_property_head(INTENSIVE, store_of(tmp_path / "a.unipot", values), np.arange(4), **SIZES)
    assert float(head.spread) == float(head.scale) == pytest.approx(np.std([1.0, 2.0, 6.0]))
    assert head.reference.values[[1, 8]].tolist() == pytest.approx([3.0, 3.0])
    assert not head.knows(torch.tensor([6]))


def test_an_extensive_head_starts_at_the_composition_fit(tmp_path):
    noise = np.array([0.1, -0.1, 0.1, -0.1, 0.1, -0.1])
    values = np.array([2 * 1.0 + (1 + k % 3) * 16.0 for k in range(6)]) + noise
    head = new_property_head(EXTENSIVE, store_of(tmp_path / "a.unipot", values), np.arange(6), **SIZES)
    assert head.reference.values[8] == pytest.approx(16.0, abs=0.2)
    assert 0.03 < float(head.spread) < 0.11
    assert float(head.scale) == pytest.approx(float(head.spread) / 4)


@pytest.mark.parametrize("property", [INTENSIVE, EXTENSIVE])
def test_equal_values_and_too_few_are_refused(tmp_path, property):
    store = store_of(tmp_path / "a.unipot", np.array([2.0, 2.0, 2.0, np.nan, 5.0]))
    with pytest.raises(ValueError, match="all 3 training values are 2 .*nothing to learn"):
        new_property_head(property, store, np.arange(4), **SIZES)
    with pytest.raises(ValueError, match="1 of 2 training structures have a value; at least two are needed"):
        new_property_head(property, store, np.array([2, 3]), **SIZES)


def test_held_out_elements_without_training_values_are_refused(tmp_path):
    store = store_of(tmp_path / "a.unipot", np.array([1.0, 2.0, 3.0, np.nan]), [[1, 8], [1, 8], [6, 8], [7, 8]])
    head = new_property_head(INTENSIVE, store, np.arange(2), **SIZES)
    require_known_elements(head, store, np.array([0, 3]))
    with pytest.raises(ValueError, match=r"1 structures that are not trained on have the element\(s\) C"):
        require_known_elements(head, store, np.array([2, 3]))


class Told(torch.nn.Module):
    """A model that predicts what it is told, with a spread that is the structure's own."""

    device = torch.device("cpu")

    def __init__(self, head, members):
        super().__init__()
        self.property_heads, self.members = {head.property.name: head}, members

    def forward(self, batch, properties):
        rows = [int(name) for name in batch.ids]
        return type("Told", (), {"members": {"gap": self.members[rows]}})()


def told(n, scale, seed):
    """Normal errors of standard deviation scale · spread_i, spreads log-uniform over a factor of ten."""
    rng = np.random.default_rng(seed)
    spreads = 10 ** rng.uniform(-1, 0, size=n)
    errors = scale * spreads * rng.normal(size=n)
    head = PropertyHead(INTENSIVE, n_channels=4, n_members=2)
    members = torch.from_numpy(errors[:, None] + spreads[:, None] * np.array([-1, 1]) / np.sqrt(2))
    batches = []
    for k in range(n):
        batch = collate([Structure(atomic_numbers=[1], positions=[[0, 0, 0]], id=str(k))], cutoff=1.0)
        batch.labels["gap"], batch.label_mask["gap"] = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.bool)
        batches.append(batch)
    return Told(head, members), batches


def test_intervals_cover_nine_in_ten_of_other_structures(tmp_path):
    model, batches = told(400, scale=5.0, seed=1)
    report = calibrate_property(model, "gap", batches[:200])
    other = measure_intervals(model, "gap", batches[200:])
    assert report.factor == pytest.approx(5 * 1.645, rel=0.25)
    assert report.coverage_before < 0.4, "the control: without calibration they are far too narrow"
    assert 0.84 <= report.coverage <= 0.96 and 0.84 <= other.coverage <= 0.96
    assert other.factor == report.factor and other.correlation > 0.3


def test_too_few_structures_leave_the_head_uncalibrated():
    model, batches = told(9, scale=5.0, seed=2)
    assert calibrate_property(model, "gap", batches) is None
    assert float(model.property_heads["gap"].interval) == 0.0
    assert measure_intervals(model, "gap", []) is None
