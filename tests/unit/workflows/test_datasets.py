import numpy as np
import pytest
from rich.console import Console

from unipot.workflows.construction.model import head_statistics
from unipot.workflows.inputs.datasets import open_datasets
from unipot.workflows.settings.schema import DatasetConfig, HeadsConfig, LabelConfig

QUIET = Console(quiet=True)


def dataset(path, level="EMT", **options):
    return DatasetConfig(path=str(path), level_of_theory=level, **options)


def test_structure_file_is_converted_once_and_again_when_it_changes(tmp_path, toy_data):
    file = tmp_path / "a.extxyz"
    file.write_text(toy_data["metals"].read_text())
    first = open_datasets({"a": dataset(file)}, cache=tmp_path / "cache", seed=0, console=QUIET)[0].store
    stamp = (first.path / "metadata.json").stat().st_mtime_ns
    again = open_datasets({"a": dataset(file)}, cache=tmp_path / "cache", seed=0, console=QUIET)[0].store
    assert again.path == first.path and (again.path / "metadata.json").stat().st_mtime_ns == stamp
    file.write_text(toy_data["molecules"].read_text())
    other = open_datasets({"a": dataset(file)}, cache=tmp_path / "cache", seed=0, console=QUIET)[0].store
    assert other.path != first.path and len(other) != len(first)


def test_stated_units_are_applied(tmp_path, toy_data):
    sources = {"energy": LabelConfig(key="energy", unit="hartree")}
    plain = open_datasets({"a": dataset(toy_data["metals"])}, cache=tmp_path, seed=0, console=QUIET)[0].store
    stated = dataset(toy_data["metals"], sources=sources, labels=["energy"])
    scaled = open_datasets({"a": stated}, cache=tmp_path, seed=0, console=QUIET)[0].store
    assert float(scaled[0].labels["energy"]) == pytest.approx(27.211386245988 * float(plain[0].labels["energy"]))
    assert "forces" not in scaled[0].labels


def shaken(path, **changes):
    """Frames of one crystal whose forces are changed by a factor."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    rng, frames = np.random.default_rng(0), []
    for _ in range(20):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += 0.03 * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": changes.get("forces", 1.0) * atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    write(path, frames)
    return path


def test_forces_off_by_a_factor_are_refused_unless_the_user_trusts_them(tmp_path):
    file = shaken(tmp_path / "a.extxyz", forces=5.0)
    with pytest.raises(ValueError, match="'a': the forces labels contradict the energies.* a factor that fits no unit.*check_labels=false"):
        open_datasets({"a": dataset(file)}, cache=tmp_path / "cache", seed=0, console=QUIET)
    assert len(open_datasets({"a": dataset(file, check_labels=False)}, cache=tmp_path / "cache", seed=0, console=QUIET)[0].store) == 20


def test_training_and_held_out_structures_do_not_overlap(tmp_path, toy_data):
    item = open_datasets({"a": dataset(toy_data["metals"])}, cache=tmp_path, seed=0, console=QUIET)[0]
    assert len(item.validation_indices) > 0
    assert np.array_equal(np.sort(np.concatenate([item.train_indices, item.validation_indices])), np.arange(len(item.store)))


def test_held_out_elements_that_training_lacks_are_moved(tmp_path, capsys):
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames = []
    for k in range(20):
        atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7 + 0.01 * k]])
        if k == 7:
            atoms.numbers = [2, 1]
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
        frames.append(atoms)
    write(tmp_path / "a.extxyz", frames)
    for seed in range(40):  # until the only helium is held out
        plain = open_datasets({"a": dataset(tmp_path / "a.extxyz", validation_fraction=0.3)}, cache=tmp_path, seed=seed, console=Console())
        if "1 held-out structures have elements that training lacks; moved to training" in capsys.readouterr().out:
            assert 7 in plain[0].train_indices and 7 not in plain[0].validation_indices
            return
    raise AssertionError("no split held the helium out")


def test_separate_validation_file_is_used_whole(tmp_path, toy_data):
    config = dataset(toy_data["metals"], validation_path=str(toy_data["metals"]))
    item = open_datasets({"a": config}, cache=tmp_path, seed=0, console=QUIET)[0]
    assert len(item.train_indices) == len(item.validation_indices) == 40
    assert item.validation_store is not item.store


def test_no_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no dataset is given; add datasets.<name>.path="):
        open_datasets({}, cache=tmp_path, seed=0, console=QUIET)


def test_scale_is_the_largest_of_force_rms_and_residual(tmp_path, toy_data):
    datasets = open_datasets({"a": dataset(toy_data["metals"])}, cache=tmp_path, seed=0, console=QUIET)
    found = head_statistics(datasets, HeadsConfig(n_hidden=8, scale="auto", direct_forces=False), cache=tmp_path, console=QUIET)[0]
    assert found.scale == max(found.force_rms, found.report.rmse_per_atom) > 0.05
    assert found.report.rank == 3 and found.level_of_theory == "EMT"
    fixed = head_statistics(datasets, HeadsConfig(n_hidden=8, scale=2.5, direct_forces=False), cache=tmp_path, console=QUIET)[0]
    assert fixed.scale == 2.5


@pytest.mark.parametrize("scale", ["automatic", -1.0])
def test_impossible_scale_is_refused(scale, tmp_path):
    with pytest.raises(ValueError, match="heads.scale is"):
        head_statistics([], HeadsConfig(n_hidden=8, scale=scale, direct_forces=False), cache=tmp_path, console=QUIET)


def test_elements_that_are_held_out_on_purpose_stay_out_of_training(tmp_path, toy_data, capsys):
    held = {"split_by": "elements", "held_out_elements": ["Ni"]}
    (alone,) = open_datasets({"a": dataset(toy_data["metals"], **held)}, cache=tmp_path, seed=0, console=Console(width=200))
    said = capsys.readouterr().out
    assert not any(28 in alone.store[i].atomic_numbers for i in alone.train_indices) and len(alone.train_indices) < len(alone.store)
    assert len(alone.validation_indices) == 0 and "13 held-out structures have elements that training lacks; left out of validation" in said
    # another set of the same head trains on nickel, so nickel can be evaluated
    both = {"a": dataset(toy_data["metals"], **held, head="one"), "b": dataset(toy_data["metals"], head="one")}
    first, _ = open_datasets(both, cache=tmp_path, seed=0, console=QUIET)
    assert len(first.validation_indices) == 13 and all(28 in first.store[i].atomic_numbers for i in first.validation_indices)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split_by": "elements", "held_out_elements": ["Pt"]}, "no structure contains Pt, so nothing is held out"),
        ({"held_out_elements": ["Ni"]}, "dataset 'a': held-out elements Ni are given but the split is by 'group'"),
        ({"split_by": "colour"}, "dataset 'a': split by 'colour' is not known"),
    ],
)
def test_impossible_splits_are_refused(tmp_path, toy_data, options, said):
    with pytest.raises(ValueError, match=said):
        open_datasets({"a": dataset(toy_data["metals"], **options)}, cache=tmp_path, seed=0, console=QUIET)


def test_a_table_with_columns_and_splits_of_its_own_is_converted(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "tables").mkdir()
    for split, shift in (("train", 0.0), ("test", 100.0)):
        rows = {"z": [[1, 1]] * 6, "xyz": [[[0.0, 0, 0], [0, 0, 0.7 + 0.01 * k]] for k in range(6)], "e": [shift + k for k in range(6)]}
        pq.write_table(pa.table(rows), tmp_path / "tables" / f"{split}.parquet")
    config = dataset(
        tmp_path / "tables",
        labels=["energy"],
        sources={"energy": LabelConfig(key="e", unit="eV")},
        columns={"atomic_numbers": "z", "positions": "xyz"},
        split="test",
    )
    store = open_datasets({"a": config}, cache=tmp_path / "cache", seed=0, console=QUIET)[0].store
    assert [float(structure.labels["energy"]) for structure in store] == [100.0 + k for k in range(6)]


def test_stores_are_read_from_the_local_cache(tmp_path, toy_data):
    configs = {"a": dataset(toy_data["metals"])}
    local = tmp_path / "local"
    item = open_datasets(configs, cache=tmp_path / "cache", seed=0, console=QUIET, local_cache=str(local))[0]
    assert item.store.path.parent == local
    item.store.verify()


def test_relatives_of_a_moved_structure_move_with_it(tmp_path, capsys):
    from unipot.data.store import StoreWriter
    from unipot.structure import Structure

    path = tmp_path / "a.unipot"
    with StoreWriter(path, name="a", level_of_theory="EMT", labels=("energy",)) as writer:
        for k in range(40):  # each group of four has one atom of its own element
            numbers = [k // 4 + 3 if k % 4 == 0 else 1, 1]
            writer.add(Structure(atomic_numbers=numbers, positions=[[0, 0, 0], [0, 0, 1.0]], labels={"energy": -1.0}, group=f"g{k // 4}"))
    config = dataset(path, labels=["energy"], validation_fraction=0.3)
    item = open_datasets({"a": config}, cache=tmp_path, seed=0, console=Console())[0]
    assert "moved to training" in capsys.readouterr().out
    groups = item.store.groups
    assert not set(groups[np.asarray(item.train_indices)]) & set(groups[np.asarray(item.validation_indices)])
