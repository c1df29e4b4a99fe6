"""Reference energies that a user states: element symbols and eV, in the configuration or in a JSON or YAML file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from unipot.errors import InputError
from unipot.structure import SYMBOLS
from unipot.yaml_files import read_yaml_text


def given_values(values: Mapping[Any, Any] | str, where: str) -> dict[int, float]:
    """Atomic number -> eV per atom.

    Args:
        values: symbol -> eV, or the path of a JSON or YAML file that holds such a mapping and nothing else.
        where: begins every message, for example `heads.references.spice.values`.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file cannot be read, a symbol is unknown or there twice, or a value is not a finite number.
    """
    if isinstance(values, str):
        where = f"{where} ({values})"
        pairs = _pairs_of(Path(values), where)
    elif isinstance(values, Mapping):
        pairs = values.items()
    else:
        raise InputError(f"{where} is {values!r}; give element: eV for each element, or the path of a JSON or YAML file with that")
    found: dict[int, float] = {}
    for symbol, value in pairs:
        z = _atomic_number(symbol, where)
        if z in found:
            raise InputError(f"{where}: {symbol} is there twice; leave one of them out")
        found[z] = _number(value, symbol, where)
    if not found:
        raise InputError(f"{where} is empty; give element: eV for at least one element")
    return found


def _atomic_number(symbol: Any, where: str) -> int:
    if symbol is False:
        symbol = "No"  # nobelium, as YAML 1.1 reads it where it is not quoted
    if symbol not in SYMBOLS[1:]:
        close = get_close_matches(str(symbol).capitalize(), SYMBOLS[1:], n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(f"{where}: {symbol!r} is not the symbol of an element{hint}; write symbols as in {{H: -13.6, O: -432.0}}")
    return SYMBOLS.index(symbol)


def _number(value: Any, symbol: Any, where: str) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not math.isfinite(number):
        raise InputError(f"{where}: the value of {symbol} is {value!r}; give a finite number in eV per atom")
    return number


def _pairs_of(path: Path, where: str) -> Iterable[tuple[Any, Any]]:
    """Keys and values of the mapping in a file, twice the same key included."""
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{where}: there is no such file; give the path of a JSON or YAML file, or the values themselves")
    try:
        if path.suffix == ".json":
            pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
        else:
            node = yaml.compose(read_yaml_text(path), Loader=yaml.BaseLoader)  # all as texts: `No` stays nobelium
            pairs = [(key.value, value.value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else None
    except (RecursionError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{where}: the file cannot be read ({' '.join(str(error).split())}); write one `symbol: eV` per line") from error
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise InputError(f"{where}: the file holds no mapping; write one `symbol: eV` per line")
    return pairs
