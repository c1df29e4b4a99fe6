"""Plain readers of plain text, which know nothing of the project's own: does a damaged file say what was read out of it?"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.inputs import CONFIGURATION

_PAIR = re.compile(r"""([^\s="']+)=("[^"]*"|'[^']*'|[^\s"']+)|(\S+)""")


def row_of(structure: Any) -> dict[str, Any]:
    """What a plain reader finds in a frame too."""
    labels = {name: np.asarray(value).tolist() for name, value in structure.labels.items()}
    number = int(structure.id.rsplit("-", 1)[1])
    return {
        "frame": number,
        "numbers": structure.atomic_numbers.tolist(),
        "positions": structure.positions.tolist(),
        **labels,
        "cell": structure.cell.tolist(),
        "pbc": structure.pbc.tolist(),
        "charge": structure.total_charge,
    }


def xyz_says_so(path: Path, reading: dict[str, str], sound: dict[str, str]) -> bool:
    """Every frame of the file was read as it stands there, or skipped and reported; a file that breaks the format is not to be read."""
    found = json.loads(reading["rows"])
    skipped = {int(name.rsplit("-", 1)[1]) for name in found["skipped"]}
    try:
        frames = list(_frames(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, IndexError):
        return False
    rows = {row["frame"]: row for row in found["rows"]}
    return set(rows) | skipped == set(range(len(frames))) and all(_same(rows[k], frame) for k, frame in enumerate(frames) if k in rows)


def _frames(text: str) -> Any:
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    at = 0
    while at < len(lines):
        n_atoms = int(lines[at])
        atoms = [line.split() for line in lines[at + 2 : at + 2 + n_atoms]]
        if len(atoms) != n_atoms or n_atoms < 1:
            raise ValueError("the file ends within a frame")
        yield _frame(lines[at + 1], atoms)
        at += 2 + n_atoms


def _frame(comment: str, atoms: list[list[str]]) -> dict[str, Any]:
    from ase.data import atomic_numbers

    pairs = [(key, value.strip("\"'")) for key, value, _ in _PAIR.findall(comment) if key]
    info = dict(pairs)
    if len(info) != len(pairs):
        raise ValueError("a key stands twice")
    layout = info.get("Properties", "species:S:1:pos:R:3").split(":")
    columns, start = {}, 0
    for name, count in zip(layout[::3], map(int, layout[2::3]), strict=True):
        columns[name] = [row[start : start + count] for row in atoms]
        start += count
    if any(len(row) != start for row in atoms):
        raise ValueError("a line has another number of columns than Properties")
    numbers = columns["Z"] if "species" not in columns else [[atomic_numbers[word]] for (word,) in columns["species"]]
    frame = {"numbers": [int(z) for (z,) in numbers], "positions": _floats(columns["pos"])}
    frame["cell"] = (
        np.array(_floats([info["Lattice"].split()])[0]).reshape(3, 3).tolist() if "Lattice" in info else np.zeros((3, 3)).tolist()
    )
    frame["pbc"] = [word == "T" for word in info["pbc"].split()] if "pbc" in info else 3 * ["Lattice" in info]
    frame["charge"] = float(info.get("total_charge", 0.0))
    if "forces" in columns:
        frame["forces"] = _floats(columns["forces"])
    if "energy" in info:
        frame["energy"] = float(info["energy"])
    if "stress" in info:
        frame["stress"] = np.array(_floats([info["stress"].split()])[0]).reshape(3, 3).tolist()
    return frame


def _floats(rows: list[list[str]]) -> list[list[float]]:
    return [[float(word) for word in row] for row in rows]


def _same(read: dict[str, Any], said: dict[str, Any]) -> bool:
    keys = (read.keys() - {"frame"}) | said.keys()
    return all(
        key in read
        and key in said
        and np.shape(read[key]) == np.shape(said[key])
        and np.allclose(read[key], said[key], rtol=1e-9, atol=1e-12)
        for key in keys
    )


# configurations


def leaves(content: Any, prefix: str = "") -> dict[str, Any]:
    """`key.path` -> value; empty mappings and lists are values."""
    if isinstance(content, dict) and content:
        return {k: v for key, value in content.items() for k, v in leaves(value, f"{prefix}.{key}" if prefix else str(key)).items()}
    return {prefix: content}


def yaml_says_so(path: Path, reading: dict[str, str], sound: dict[str, str]) -> bool:
    """Options in the file have the values that stand there; others are as before, unless the file chose another group by name."""
    said = _yaml(path)
    if said is None:
        return False
    found, before = json.loads(reading["options"]), json.loads(sound["options"])
    in_file = leaves(said)
    chosen = {key for key, value in in_file.items() if "." not in key and any(name.startswith(f"{key}.") for name in found)}
    for key, value in in_file.items():
        if key not in (*chosen, "run") and not _equal(found.get(key, _mapping_at(found, key)), value):
            return False
    named = {*in_file, *leaves(_loaded(CONFIGURATION))}
    entries = {key.rpartition(".")[0] for key in named if key not in before}  # of mappings, whose other options have defaults
    touched = {name for name in found if any(f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.") for key in {*named, *entries})}
    return all(name in touched or name.split(".")[0] in chosen or name == "stated" or found[name] == before.get(name) for name in found)


def resolved_says_so(path: Path, reading: dict[str, str], sound: dict[str, str]) -> bool:
    """The same of the configuration of a run, which names every option."""
    said = _yaml(path / "resolved_config.yaml")
    if said is None:
        return False
    found = json.loads(reading["options"])
    return all(
        _equal(found.get(key, _mapping_at(found, key)), value) for key, value in leaves(said).items() if key not in ("run", "resume")
    )


def _mapping_at(found: dict[str, Any], key: str) -> Any:
    """What stands below a key that is a mapping, {} for an empty one."""
    return {} if any(name.startswith(f"{key}.") for name in found) else "absent"


def _yaml(path: Path) -> dict[str, Any] | None:
    """The mapping in a file; None if it is not YAML, not a mapping, or has a key twice."""
    try:
        return _loaded(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        return None


def _loaded(text: str) -> dict[str, Any]:
    import yaml

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            if len(set(map(str, names))) != len(names):
                raise yaml.YAMLError("a key stands twice")
            return super().construct_mapping(node, deep=deep)

    try:
        content = yaml.load(text, Loader=Strict)
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(content, dict):
        raise ValueError("not a mapping")
    return content


def _equal(found: Any, said: Any) -> bool:
    """Equal, also where one is the text of the other; texts keep what a number loses."""
    if found == said or str(found).lower() == str(said).lower():
        return True
    if isinstance(found, list) and isinstance(said, list):
        return len(found) == len(said) and all(map(_equal, found, said))
    try:
        one, other = float(found), float(said)
    except (TypeError, ValueError, OverflowError):
        return False
    return one == other or (math.isnan(one) and math.isnan(other))
