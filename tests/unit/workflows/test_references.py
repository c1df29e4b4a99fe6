"""References of heads: modes, mixed use, reports, and every way to ask for something impossible."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from unipot.data.spec import DatasetSpec
from unipot.data.store import Store, StoreWriter
from unipot.structure import Structure
from unipot.workflows.construction.model import head_statistics
from unipot.workflows.inputs.datasets import OpenDataset, open_datasets
from unipot.workflows.runs import run_tables as tables
from unipot.workflows.settings.schema import DatasetConfig, HeadsConfig, ReferenceConfig

QUIET = Console(quiet=True)
TRUTH = {1: -13.6, 6: -1030.0, 8: -2041.0}
#: O and H2 in every ratio, C only with O2
FRAMES = [[8], [1, 1], [8, 1, 1], [8, 8, 1], [6, 8, 8], [6, 8, 8, 1, 1]]


def structure(numbers, energy, id, **fields):
    positions = np.outer(np.arange(len(numbers)), [1.2, 0.1, 0.0])
    return Structure(atomic_numbers=numbers, positions=positions, id=id, labels={} if energy is None else {"energy": energy}, **fields)


def molecules(binding=0.0, frames=FRAMES):
    return [structure(z, sum(TRUTH[k] for k in z) - binding * len(z), f"m{i}") for i, z in enumerate(frames)]


@pytest.fixture
def opened(tmp_path):
    def make(structures, name="a", n_held_out=0, head="", **options):
        path = tmp_path / f"{name}.unipot"
        with StoreWriter(path, **{"name": name, "level_of_theory": "PBE", "labels": ("energy",), **options}) as writer:
            for item in structures:
                writer.add(item)
        store = Store(path)
        spec = DatasetSpec(name=name, path=str(path), level_of_theory=store.level_of_theory, energy_kind=store.energy_kind, head=head)
        split = np.arange(len(store))
        train, held = np.split(split, [len(store) - n_held_out])
        return OpenDataset(spec=spec, store=store, train_indices=train, validation_store=store, validation_indices=held)

    return make


@pytest.fixture
def references(tmp_path):
    def make(*datasets, **references):
        heads = {name.replace("_", "-"): ReferenceConfig(**options) for name, options in references.items()}
        config = HeadsConfig(n_hidden=8, scale="auto", direct_forces=False, references=heads)
        return head_statistics(list(datasets), config, cache=tmp_path / "cache", console=QUIET)

    return make


def values_of(item):
    return {z: float(item.reference.values[z]) for z in np.flatnonzero(item.reference.known.numpy())}


def test_total_energies_are_fitted_by_default(opened, references):
    (item,) = references(opened(molecules()))
    assert item.report.mode == "fit" and item.report.fitted == ("H", "C", "O")
    assert values_of(item) == pytest.approx(TRUTH)
    assert (item.report.rank, item.report.n_frames, item.report.undetermined) == (3, 6, "")


def test_datasets_of_one_head_are_fitted_together(opened, references):
    parts = [opened(molecules(frames=part), name, head="x") for name, part in (("a", FRAMES[:2]), ("b", FRAMES[2:]))]
    (item,) = references(*parts)
    assert item.datasets == ("a", "b") and item.report.n_frames == 6 and values_of(item) == pytest.approx(TRUTH)


def test_only_training_structures_are_fitted(opened, references):
    wrong = [structure([8, 1], 99.0, "held out")]
    (item,) = references(opened(molecules() + wrong, n_held_out=1))
    assert item.report.n_frames == 6 and values_of(item) == pytest.approx(TRUTH)


def test_adsorption_energies_have_zero_references_by_default(opened, references):
    (item,) = references(opened([structure([8, 1], -0.5, "a"), structure([6, 8], 0.3, "b")], energy_kind="adsorption"))
    assert values_of(item) == {1: 0.0, 6: 0.0, 8: 0.0}
    assert (item.report.mode, item.report.energy_kind, item.report.fitted) == ("none", "adsorption", ())
    assert "references are zero: an adsorption energy is a difference already" in item.report.sentences()
    assert item.report.rmse_per_atom == pytest.approx(np.sqrt((0.25**2 + 0.15**2) / 2))


def test_adsorption_energies_may_be_fitted_when_asked_for(opened, references):
    (item,) = references(opened(molecules(), energy_kind="adsorption"), a={"mode": "fit"})
    assert values_of(item) == pytest.approx(TRUTH)


def test_given_values_are_taken_as_they_are(opened, references, tmp_path):
    (tmp_path / "atoms.yaml").write_text("H: -13\nC: -1029\nO: -2040\nFe: -1\n")
    (item,) = references(opened(molecules()), a={"mode": "given", "values": str(tmp_path / "atoms.yaml")})
    assert values_of(item) == {1: -13.0, 6: -1029.0, 8: -2040.0}  # iron occurs nowhere, so nothing has learnt it
    assert (item.report.given, item.report.fitted, item.report.rank) == (("H", "C", "O"), (), 0)
    assert item.report.rmse_per_atom > 0.5


def test_given_value_holds_for_an_element_that_another_head_trains_on(opened, references):
    values = {"H": -13.0, "O": -2040.0, "C": -1029.0}
    water = opened(molecules(frames=FRAMES[:3]))
    other = opened(molecules(), "b")
    first, second = references(water, other, a={"mode": "given", "values": values})
    assert values_of(first) == {1: -13.0, 6: -1029.0, 8: -2040.0} and second.report.mode == "fit"
    (without,) = [item for item in references(water, other) if item.head == "a"]
    assert without.report.unseen_elsewhere == ("C",) and "no reference for C, which other heads train on" in without.report.sentences()


def test_isolated_atoms_come_from_the_dataset_itself(opened, references):
    atoms = [structure([z], TRUTH[z], f"atom-{z}") for z in TRUTH]
    (item,) = references(opened(molecules(binding=2.0, frames=FRAMES[1:]) + atoms), a={"mode": "isolated-atoms"})
    assert values_of(item) == TRUTH
    assert item.report.isolated == {"H": "a: atom-1", "C": "a: atom-6", "O": "a: atom-8"}


def test_isolated_atoms_come_from_a_file(opened, references, tmp_path):
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames = [Atoms(numbers=[z]) for z in TRUTH]
    for frame in frames:
        frame.calc = SinglePointCalculator(frame, energy=TRUTH[int(frame.numbers[0])])
    write(tmp_path / "free.extxyz", frames)
    item = references(opened(molecules(binding=2.0)), a={"mode": "isolated-atoms", "atoms": str(tmp_path / "free.extxyz")})[0]
    assert values_of(item) == TRUTH


def test_mixed_fits_what_is_not_known(opened, references):
    data = opened([*molecules(), structure([1], -13.0, "free H")])
    (item,) = references(data, a={"mode": "mixed", "values": {"C": -1000.0}, "atoms": "dataset"})
    report = item.report
    assert (report.given, report.fitted, set(report.isolated)) == (("C",), (), {"H", "O"})  # O alone is a frame, too
    (item,) = references(data, a={"mode": "mixed", "values": {"C": TRUTH[6]}})
    assert item.report.fitted == ("H", "O") and item.report.rank == 2
    assert values_of(item)[8] == pytest.approx(TRUTH[8], abs=0.2) and values_of(item)[6] == TRUTH[6]


def test_stated_values_go_before_isolated_atoms(opened, references):
    (item,) = references(opened(molecules()), a={"mode": "mixed", "values": {"O": -2000.0}, "atoms": "dataset"})
    assert values_of(item)[8] == -2000.0 and item.report.isolated == {}


def test_element_without_any_energy_takes_the_mean_and_the_report_says_so(opened, references):
    (item,) = references(opened([*molecules(), structure([1, 26], None, "forces only")]))
    total, n = sum(sum(TRUTH[z] for z in frame) for frame in FRAMES), sum(len(frame) for frame in FRAMES)
    assert values_of(item)[26] == pytest.approx(total / n) and item.report.assumed == ("Fe",)
    assert "no energy with Fe: the mean energy per atom is taken" in item.report.sentences()


def test_head_without_energies_has_zero_references(opened, references):
    forces = Structure(atomic_numbers=[8, 1], positions=[[0, 0, 0], [0, 0, 1]], id="f", labels={"forces": np.ones((2, 3))})
    (item,) = references(opened([forces], labels=("forces",)))
    assert values_of(item) == {1: 0.0, 8: 0.0} and item.report.rmse_per_atom is None
    assert item.report.sentences() == ["no energies, so its references are zero"]


def test_element_of_validation_without_reference_is_reported(opened, references):
    (item,) = references(opened([*molecules(), structure([26, 8], -5.0, "held out")], n_held_out=1))
    assert item.report.unseen_in_validation == ("Fe",)


def test_tables_show_rank_residual_and_what_is_open(opened, references):
    statistics = references(opened(molecules(frames=[[6, 8, 8], [6, 8, 8, 1, 1], [6, 8, 8, 1]])))
    text = io.StringIO()
    tables.show_heads(Console(file=text, width=140), statistics)
    assert "2 of 3" in text.getvalue() and "compositions leave open: C - 0.50 O" in text.getvalue() and "total" in text.getvalue()


FREE = {"mode": "isolated-atoms"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a", {"mode": "fitted"}, "heads.references.a.mode is 'fitted'; use one of: fit, given, isolated-atoms, mixed, none"),
        ("b", {"mode": "none"}, "heads.references.b: this run makes no such head; its heads are: a"),
        ("a", {"mode": "given"}, "heads.references.a: mode given needs values"),
        ("a", {"mode": "given", "values": {"O": -1.0}}, "heads.references.a.values has no value for H, C of the training data"),
        ("a", {"mode": "given", "values": {"Q": -1.0}}, "heads.references.a.values: 'Q' is not the symbol"),
        ("a", {"mode": "fit", "values": {"O": -1.0}}, "mode 'fit' does not use it; leave it out, or choose mode given, mixed"),
        ("a", {"values": {"O": -1.0}}, "mode 'fit' does not use it"),
        ("a", {"mode": "none", "atoms": "dataset"}, "heads.references.a.atoms is given, but mode 'none' does not use it"),
        ("a", {"mode": "mixed"}, "mode mixed needs heads.references.a.values or heads.references.a.atoms"),
        ("a", FREE, r"there is no isolated atom of H, C \(one neutral atom .* no neighbour within 6 A\) in the datasets of this head"),
    ],
)
def test_impossible_references_are_refused(opened, references, name, options, message):
    with pytest.raises(ValueError, match=message):
        references(opened(molecules()), **{name: options})


@pytest.mark.parametrize("options", [{"level_of_theory": "LDA"}, {"energy_kind": "formation"}])
def test_free_atoms_of_another_level_or_kind_are_refused(opened, references, options):
    free = opened([structure([z], -1.0, f"{z}") for z in TRUTH], "free", **options)
    with pytest.raises(ValueError, match=r"heads.references.a.atoms: .*free.unipot has .* give free atoms of the same kind and level"):
        references(opened(molecules()), a={**FREE, "atoms": str(free.store.path)})


def test_fixed_ratios_of_real_oxides_are_told(real_data, tmp_path, references):
    """BO2 oxides: oxygen is always two thirds, so its reference and a common one of the metals cannot be told apart."""
    path = real_data / "oxides_bo2_lda" / "train.extxyz"
    datasets = open_datasets({"a": DatasetConfig(path=str(path), level_of_theory="LDA")}, cache=tmp_path, seed=0, console=QUIET)
    (item,) = references(*datasets)
    report = item.report
    assert len(report.fitted) == 6 and "O" in report.fitted and report.rank == 5
    assert report.undetermined.endswith("- 0.50 O") and report.undetermined.count(" + ") == 4
    assert report.rmse_per_atom == pytest.approx(0.13, abs=0.01)
