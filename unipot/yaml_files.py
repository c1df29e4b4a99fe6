"""YAML of others, looked at before it is expanded.

An alias stands for everything that its anchor holds: nine lines of aliases of aliases are 10⁹ values, and an alias of itself never
ends. Values are counted as if every alias were written out, before any of them is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unipot.errors import InputError

#: of a file; the longest card has 12,000 bytes
MAX_BYTES = 2_000_000
#: of a file with its aliases written out
MAX_VALUES = 200_000


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file that can be read by any loader of YAML.

    Raises:
        ValueError: the file is too long, is not UTF-8 or not YAML, contains itself, or holds more than `MAX_VALUES` values.
    """
    if not path.is_file():
        raise InputError(f"{path} is not an ordinary file; give a YAML file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(f"{path} has {size:,} bytes, at most {MAX_BYTES:,} are read; this is not a file that was written by hand")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line} is not UTF-8 text (byte {content[error.start]:#x}); save the file as UTF-8") from error
    require_bounded(text, str(path))
    return text


def load_yaml(path: Path) -> Any:
    """What a YAML file holds: texts, numbers, lists and mappings.

    Raises:
        ValueError: see `read_yaml_text`; or a value is not what its tag or its look says.
    """
    import yaml

    text = read_yaml_text(path)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def require_bounded(text: str, where: str) -> None:
    """Raises:
    ValueError: the text is not YAML, contains itself, or holds more than `MAX_VALUES` values.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        n_values = 0 if node is None else _count(node, {}, where)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(f"{where}: lists and mappings lie inside each other too deep") from error
    if n_values > MAX_VALUES:
        raise InputError(f"{where}: with its aliases (*name) written out it has {n_values:.1e} values, at most {MAX_VALUES:,} are read")


def _count(node: Any, known: dict[int, int | None], where: str) -> int:
    """Values below a node with aliases written out; each node is looked at once.

    Raises:
        ValueError: it contains itself.
    """
    if id(node) in known:
        n_values = known[id(node)]
        if n_values is None:
            line = node.start_mark.line + 1
            raise InputError(f"{where}: what begins in line {line} contains itself; take out the alias (*name) that does it")
        return n_values
    known[id(node)] = None
    inner = getattr(node, "value", None)
    parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))] if isinstance(inner, list) else []
    known[id(node)] = n_values = 1 + sum(_count(part, known, where) for part in parts)
    return n_values
