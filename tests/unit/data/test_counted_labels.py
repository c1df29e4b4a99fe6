"""Labels that are there and do not count are counted, said, and refused where they were asked for by name."""

from __future__ import annotations

from dataclasses import asdict
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from unipot.data.label_use import counted_labels, refuse_void_stress
from unipot.data.quality.census import Census
from unipot.data.quality.counted_labels import CountedLabels
from unipot.data.quality.measurements import measure
from unipot.structure import Structure
from unipot.training.losses import PropertyTerm, StepLoss
from unipot.workflows.inputs.datasets import OpenDataset, open_datasets
from unipot.workflows.inputs.user_frames import open_frames
from unipot.workflows.runs.run_tables import show_loss
from unipot.workflows.settings.schema import DatasetConfig, UserDataConfig

QUIET = Console(quiet=True)


def slab(k: int, *, bulk: bool = False, zero: bool = True) -> Structure:
    """Three atoms, of which the lowest is held, with a stress; `zero`: its force is that after the constraint."""
    rng = np.random.default_rng(k)
    forces = rng.normal(size=(3, 3))
    forces -= forces.mean(axis=0)
    if zero and not bulk:
        forces[0] = 0
    labels = {"energy": np.array(-3.0 - 0.01 * k), "forces": forces, "stress": np.eye(3) * 0.01}
    positions = np.array([[0.0, 0, 0], [1.8, 1.8, 1.8], [0, 0, 3.6]]) + 0.3 * rng.random((3, 3))
    return Structure(
        atomic_numbers=[29, 29, 8], positions=positions, cell=np.diag([4.0, 4.0, 20.0]), pbc=[True, True, bulk],
        fixed=[not bulk, False, False], labels=labels, id=f"s-{k}",
    )  # fmt: skip


def test_what_does_not_count_is_counted():
    counted = CountedLabels.of([slab(0), slab(1, zero=False), slab(2, bulk=True)])
    assert counted == CountedLabels(n_stress=3, n_void_stress=2, n_forces=9, n_fixed=2, n_fixed_zero=1)
    stress, forces = counted.sentences()
    assert stress == "stress of 2 of 3 structures with a stress does not count: they are not periodic along all axes"
    assert forces.startswith("forces of 2 of 9 atoms do not count: they were fixed, and 50% of their force labels are exactly zero")


def test_where_everything_counts_nothing_is_said():
    assert CountedLabels.of([slab(k, bulk=True) for k in range(3)]).sentences() == []


def test_forces_of_fixed_atoms_that_count_are_doubted_where_they_are_zero():
    (forces,) = CountedLabels.of([slab(0, bulk=True), slab(1)]).sentences(frozen_atoms="include")[1:]
    assert forces.startswith("forces of fixed atoms count") and "100% of their force labels are exactly zero" in forces
    assert CountedLabels.of([slab(1, zero=False)]).sentences(frozen_atoms="include")[1:] == []


def test_a_large_store_is_sampled_evenly(make_store):
    store = make_store(structures=[slab(k, bulk=k % 2 == 0) for k in range(40)])
    counted = counted_labels(store, at_most=9)
    assert (counted.n_stress, counted.whole) == (9, False) and "about 44% of the structures" in counted.sentences()[0]
    assert counted_labels(store, [1, 3]) == CountedLabels.of([slab(1), slab(3)])


def test_the_census_says_it_and_forgets_what_the_finishing_pass_takes_out():
    census, structures = Census("slabs", "PBE"), [slab(0), slab(1), slab(2, bulk=True)]
    census.add(structures, measure(structures))
    other = Census("slabs", "PBE")
    other.merge(census.state())
    assert other.to_dict()["labels_that_do_not_count"] == {"stress_structures": 2, "fixed_atoms": 2}
    stream = StringIO()
    Console(file=stream, width=200).print(other.table())
    assert "stress of 2 of 3 structures with a stress does not count" in stream.getvalue()
    whole = CountedLabels.of(structures)
    assert whole.without(CountedLabels.of(structures[:1])) == CountedLabels.of(structures[1:])


def test_a_census_of_an_earlier_version_is_merged():
    census, structures = Census("slabs", "PBE"), [slab(0)]
    census.add(structures, measure(structures))
    state = census.state()
    del state["counted"]
    other = Census("slabs", "PBE")
    other.merge(state)
    assert other.n_structures == 1 and asdict(other.counted)["n_stress"] == 0


@pytest.fixture
def slabs(make_store):
    return make_store(name="slabs", structures=[slab(k) for k in range(20)])


def test_stress_that_is_named_and_counts_nowhere_is_refused(slabs, make_store):
    with pytest.raises(ValueError, match="set: labels names stress, but none of the 20 structures with a stress is periodic along"):
        refuse_void_stress(slabs, ["energy", "stress"], "set")
    refuse_void_stress(slabs, ["energy", "forces"], "set")
    refuse_void_stress(make_store(name="mixed", structures=[slab(k, bulk=k == 7) for k in range(20)]), ["stress"], "set")


def test_pretraining_refuses_it(slabs, tmp_path):
    named = {"slabs": DatasetConfig(path=str(slabs.path), level_of_theory="PBE", labels=["energy", "stress"])}
    with pytest.raises(ValueError, match="dataset 'slabs': labels names stress"):
        open_datasets(named, cache=tmp_path, seed=0, console=QUIET)


def test_fine_tuning_and_evaluation_refuse_it_and_take_the_set_where_stress_is_not_named(slabs, tmp_path):
    named = UserDataConfig(labels=["energy", "forces", "stress"])
    with pytest.raises(ValueError, match=r"slabs\.unipot: labels names stress"):
        open_frames(str(slabs.path), named, name="slabs", cache=tmp_path, console=QUIET)
    assert len(open_frames(str(slabs.path), UserDataConfig(), name="slabs", cache=tmp_path, console=QUIET)) == 20


def loss_line(datasets: list[OpenDataset], **options: str) -> str:
    terms = tuple(PropertyTerm(property=name, **(options if name == "forces" else {})) for name in ("energy", "forces", "stress"))
    stream = StringIO()
    show_loss(Console(file=stream, width=300), StepLoss(terms=terms), datasets)
    return stream.getvalue()


def test_the_loss_line_marks_a_term_that_is_zero_and_says_which_labels_do_not_count(slabs, tmp_path):
    config = {"slabs": DatasetConfig(path=str(slabs.path), level_of_theory="PBE", validation_fraction=0.0)}
    datasets = open_datasets(config, cache=tmp_path, seed=0, console=QUIET)
    text = loss_line(datasets)
    assert "1 x stress (huber, zero: no label counts)" in text and "1 x energy (huber) + 1 x forces (huber) +" in text
    assert "slabs: stress of 20 of 20 structures with a stress does not count" in text
    assert "slabs: forces of 20 of 60 atoms do not count" in text
    assert "do not count: they were fixed" not in loss_line(datasets, frozen_atoms="include")
