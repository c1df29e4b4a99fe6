"""What is damaged: for every reader of the project a sound input, the files of it that are changed, and what is read, as digests.

A reading is a mapping from a part (`structures`, `predictions`, `meaning` …) to a digest. Two readings that differ in `description`
alone (names, licences, provenance) differ in words, not in numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing import independent, inputs

Reading = dict[str, str]
DESCRIPTION = "description"


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One entry point of the project.

    Attributes:
        name: for the command line and the table.
        make: (folder, folder of what readers share) -> writes the sound input.
        entry: what of the input is handed to `read`, relative to the folder.
        files: (pattern, kind of damage, weight) of the files that are changed; see `fuzzing.containers.KINDS`.
        read: entry -> what was read.
        says_so: (entry, reading, reading of the sound input) -> whether a reader that knows nothing of ours finds the same in a damaged
            file. None where a checksum has to find the damage.
        names_input: whether a refusal must name the file or folder; options of a configuration are named by their keys.
    """

    name: str
    make: Callable[[Path, Path], None]
    entry: str
    files: tuple[tuple[str, str, float], ...]
    read: Callable[[Path], Reading]
    says_so: Callable[[Path, Reading, Reading], bool] | None = None
    names_input: bool = True


def digest(*values: Any) -> str:
    """SHA-256 of arrays, texts, numbers, and lists or mappings of such."""
    found = hashlib.sha256()
    for value in values:
        _add_value(found, value)
    return found.hexdigest()[:16]


def _add_value(found: Any, value: Any) -> None:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        found.update(f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            _add_value(found, [key, value[key]])
    elif isinstance(value, list | tuple):
        found.update(f"[{len(value)}".encode())
        for each in value:
            _add_value(found, each)
    elif is_dataclass(value):
        _add_value(found, vars(value))
    else:
        found.update(repr(value).encode())


def structures_digest(structures: Iterable[Any]) -> str:
    """Everything in structures; what a reader skipped and reported counts as reported."""
    return digest([vars(s) if hasattr(s, "positions") else (s.where, s.reason) for s in structures])


# models


def read_artifact(path: Path) -> Reading:
    from ase.build import molecule

    from unipot.calculator import UnipotCalculator
    from unipot.zoo.artifact import load_artifact

    artifact = load_artifact(path)
    predicted = []
    for head in artifact.potential.head_names:
        atoms = molecule("H2O")
        atoms.calc = UnipotCalculator(artifact.potential, head=head)
        predicted.append([atoms.get_potential_energy(), atoms.get_forces()])
    card = artifact.card
    return {
        "weights": digest(dict(artifact.potential.state_dict())),
        "predictions": digest(predicted),
        "meaning": digest([card.get("potential"), card.get("heads"), card.get("units"), artifact.potential.describe()]),
        DESCRIPTION: digest(card),
    }


def read_card_of(path: Path) -> Reading:
    from io import StringIO

    from rich.console import Console

    from unipot.zoo.card import read_card
    from unipot.zoo.show import describe_artifact

    console = Console(file=StringIO(), width=120)
    console.print(describe_artifact(path))
    return {DESCRIPTION: digest(read_card(path))}


def read_package(path: Path) -> Reading:
    """What is read without `trusted=true`."""
    from unipot.zoo import compiled_package as package

    card = package.read_package_card(path)
    reading = {
        "meaning": digest([card.get(key) for key in ("head", "level_of_theory", "energy_kind", "elements", "units", "dtype", "cutoff")])
    }
    if hasattr(package, "model_in_package"):
        model = package.model_in_package(path)
        reading["weights"] = digest(dict(model.potential.state_dict()))
    return {**reading, DESCRIPTION: digest(card)}


# data


def read_store(path: Path) -> Reading:
    from unipot.data.charge_states import charge_states
    from unipot.data.quality.quarantine import read_quarantine
    from unipot.data.storage.columns import COLUMNS
    from unipot.data.storage.decode import decode_batch
    from unipot.data.store import Store

    store = Store(path)
    batch = decode_batch([store], [(0, k) for k in range(len(store))], cutoff=None)
    columns = {name: np.array(store.column(name)) for name in COLUMNS}
    states = charge_states(store)
    return {
        "structures": structures_digest(store),
        "batch": digest({name: value for name, value in vars(batch).items() if hasattr(value, "shape") or name == "labels"}),
        "columns": digest(columns, list(store.ids), store.composition_counts(), store.n_edges(6.0), store.n_edges(4.25)),
        "scalars": digest({name: np.array(store.scalar(name)) for name in store.scalars}),
        "meaning": digest(
            store.level_of_theory, store.energy_kind, store.labels, store.elements, {k: v["unit"] for k, v in store.scalars.items()}
        ),
        "states": digest(dict(states.charges), dict(states.multiplicities)),
        DESCRIPTION: digest(store.name, store.metadata, store.scalars, [vars(entry) for entry in read_quarantine(path)]),
    }


def read_parquet(path: Path) -> Reading:
    from unipot.data.readers import read_structures
    from unipot.data.readers.exported import describe_dataset

    description = describe_dataset(path)
    own = {} if description is None else vars(description)
    return {
        "structures": structures_digest(read_structures(path)),
        "meaning": digest([own.get(key) for key in ("level_of_theory", "energy_kind", "labels")]),
        DESCRIPTION: digest(own),
    }


def read_xyz(path: Path) -> Reading:
    from unipot.data.labels import ASE_LABELS
    from unipot.data.readers import read_structures

    found = list(read_structures(path, labels=ASE_LABELS))
    rows = [independent.row_of(s) for s in found if hasattr(s, "positions")]
    skipped = [s.where for s in found if not hasattr(s, "positions")]
    return {"structures": structures_digest(found), "rows": json.dumps({"rows": rows, "skipped": skipped})}


# runs


def read_run_state_of(path: Path) -> Reading:
    from unipot.training.checkpoint import read_run_state

    return {"state": digest(read_run_state(path))}


def _config_reading(verb: str, overrides: list[str]) -> Reading:
    from dataclasses import asdict

    from unipot.cli import VERBS
    from unipot.workflows.settings.compose import load_config

    module, _, name = VERBS[verb].schema.partition(":")
    schema = getattr(__import__(module, fromlist=[name]), name)
    options = independent.leaves(asdict(load_config(verb, schema, overrides)))
    options.pop("run", None)  # where the copy lies
    return {"options": json.dumps(options, default=str)}


def read_configuration(path: Path) -> Reading:
    return _config_reading("finetune", [f"config={path}"])


def read_resumed_configuration(path: Path) -> Reading:
    return _config_reading("pretrain", [f"resume={path}"])


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader(name="artifact", make=inputs.artifact, entry="model.safetensors", files=(("*", "safetensors", 1),), read=read_artifact),
        Reader(
            name="artifact-folder", make=inputs.artifact_folder, entry="model", read=read_artifact,
            files=(("model/card.json", "json", 2), ("model/model.safetensors", "safetensors", 1)),
        ),
        Reader(name="card", make=inputs.artifact, entry="model.safetensors", files=(("*", "safetensors", 1),), read=read_card_of),
        Reader(name="package", make=inputs.package, entry="model.pt2", files=(("*", "zip", 1),), read=read_package),
        *(
            Reader(
                name=name, make=make, entry="set.unipot", read=read_store,
                files=(
                    ("set.unipot/shards/*", "lmdb", 4), ("set.unipot/index/*.npy", "npy", 6), ("set.unipot/metadata.json", "json", 3),
                    ("set.unipot/scalars.json", "json", 1), ("set.unipot/census.json", "json", 1),
                    ("set.unipot/quarantine.jsonl", "json-lines", 1),
                ),
            )
            for name, make in (("store", inputs.store), ("store-compressed", inputs.store_compressed))
        ),
        Reader(
            name="parquet", make=inputs.parquet, entry="export", read=read_parquet,
            files=(("export/data/*.parquet", "parquet", 4), ("export/README.md", "text", 0.3), ("export/SHA256SUMS", "text", 0.3)),
        ),
        Reader(
            name="xyz", make=inputs.xyz, entry="frames.extxyz", files=(("*", "text", 1),), read=read_xyz, says_so=independent.xyz_says_so,
        ),
        Reader(name="run-state", make=inputs.run_state, entry="last.ckpt", files=(("*", "zip", 1),), read=read_run_state_of),
        Reader(
            name="yaml", make=inputs.configuration, entry="mine.yaml", files=(("*", "text", 1),), read=read_configuration,
            says_so=independent.yaml_says_so, names_input=False,
        ),
        Reader(
            name="yaml-of-run", make=inputs.resolved_configuration, entry="run", files=(("run/resolved_config.yaml", "text", 1),),
            read=read_resumed_configuration, says_so=independent.resolved_says_so, names_input=False,
        ),
    )
}  # fmt: skip
