"""`unipot duplicates` prints tables, writes JSON and refuses what it cannot do; training says what leaks."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from unipot.cli import main
from unipot.data.spec import DatasetSpec
from unipot.data.store import Store, StoreWriter
from unipot.structure import Structure
from unipot.workflows.duplicates import DuplicatesConfig, duplicates
from unipot.workflows.inputs.datasets import OpenDataset
from unipot.workflows.inputs.leakage import show_leakage


def molecule(k: int) -> Structure:
    rng = np.random.default_rng(k)
    numbers, positions = rng.choice([1, 6, 8], 5), rng.random((5, 3)) * 4
    return Structure(atomic_numbers=numbers, positions=positions, labels={"energy": -1.0 * k}, id=f"m-{k}")


def written(path: Path, structures: list[Structure]) -> Store:
    with StoreWriter(path, name=path.stem, level_of_theory="PBE", labels=("energy",)) as writer:
        writer.extend(structures)
    return Store(path)


@pytest.fixture
def stores(tmp_path) -> tuple[Path, Path]:
    """Eight molecules and a mirror image; two held-out ones, of which one is a turned copy with another energy."""
    frames = [molecule(k) for k in range(8)]
    mirror = replace(frames[1], id="mirror", positions=frames[1].positions * [1, 1, -1])
    turned = replace(frames[4], id="turned", positions=frames[4].positions[:, [2, 0, 1]], labels={"energy": 10.0})
    written(tmp_path / "a.unipot", [*frames, mirror])
    written(tmp_path / "b.unipot", [molecule(50), turned])
    return tmp_path / "a.unipot", tmp_path / "b.unipot"


def run(**options) -> tuple[dict, str]:
    console = Console(width=400, record=True, file=io.StringIO())
    return duplicates(DuplicatesConfig(**options), console), console.export_text()


def test_repeats_within_and_across_stores_are_counted(stores, tmp_path):
    output = tmp_path / "found.json"
    result, text = run(stores=[str(path) for path in stores], output=str(output))
    assert json.loads(output.read_text()) == result and (result["structures"], result["clusters"]) == (2, 2)
    assert result["groups"] == [["a/m-1", "a/mirror"], ["a/m-4", "b/turned"]]
    assert "same geometry, other energy: a/m-4 and b/turned differ by 2.8 eV/atom" in text
    rows = [line.split("│")[2:5] for line in text.splitlines() if ".unipot" in line and "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [["9", "1", "1"], ["2", "0", "1"]]


def test_leakage_of_held_out_stores_is_listed(stores):
    result, text = run(stores=[str(stores[0])], held_out=[str(stores[1])], output=None)
    (row,) = result["leakage"]
    assert (row["structures"], row["of"], row["ids"]) == (1, 2, [["turned", "m-4"]]) and "turned = m-4" in text


def test_the_command_line_ends_with_zero(stores, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["duplicates", f"stores=[{stores[0]}]"]) == 0
    assert "1 frames repeat an earlier one" in capsys.readouterr().out and (tmp_path / "duplicates.json").exists()
    assert main(["duplicates"]) == 2
    assert "needs at least one store" in capsys.readouterr().err


def test_training_says_which_held_out_frames_it_has_seen(stores):
    store, spec = Store(stores[0]), DatasetSpec(name="a", path="a", level_of_theory="PBE", labels=("energy",))
    leaky = OpenDataset(spec=spec, store=store, train_indices=np.arange(8), validation_store=store, validation_indices=np.array([8]))
    clean = replace(leaky, train_indices=np.array([0, 2, 3]))
    console = Console(width=160, record=True, file=io.StringIO())
    show_leakage(console, [clean])
    assert console.export_text() == ""
    show_leakage(console, [leaky, clean])
    assert "mirror = m-1" in console.export_text()
