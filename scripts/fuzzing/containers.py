"""Damage inside of what a checksum or a format would hide: members of archives, headers, cards, records, written back soundly."""

from __future__ import annotations

import io
import json
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from fuzzing.mutations import damaged_bytes, damaged_json, damaged_text, damaged_value

Change = Callable[[random.Random, bytes], tuple[bytes, str]]


def damaged(rng: random.Random, content: bytes, kind: str) -> tuple[bytes, str]:
    """A damaged copy of the contents of a file, and in words what was done.

    Args:
        rng: decides everything.
        content: of the file.
        kind: a name in `KINDS`; as often as not its bytes are changed as if nothing were known of them.
    """
    change = KINDS[kind]
    return change(rng, content) if change is not None and rng.random() < 0.6 else damaged_bytes(rng, content)


def _json(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    text, said = damaged_json(rng, content.decode())
    return _encoded(text), said


def _text(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    text, said = damaged_text(rng, content.decode())
    return _encoded(text), said


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def _json_lines(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    lines = content.decode().splitlines()
    if not lines:
        return damaged_bytes(rng, content)
    number = rng.randrange(len(lines))
    lines[number], said = damaged_json(rng, lines[number])
    return _encoded("\n".join(lines) + "\n"), f"line {number + 1}: {said}"


def _safetensors(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """The card, the table of tensors, or the numbers of a safetensors file."""
    (length,) = struct.unpack_from("<Q", content)
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    part = rng.random()
    card = header.get("__metadata__", {}).get("unipot_card")
    if part < 0.6 and card is not None:
        header["__metadata__"]["unipot_card"], said = damaged_json(rng, card)
        said = f"card: {said}"
    elif part < 0.8:
        header, said = damaged_value(rng, header)
        said = f"table of tensors: {said}"
    else:
        numbers, said = damaged_bytes(rng, numbers)
        said = f"numbers: {said}"
    text = _encoded(json.dumps(header))
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + numbers, said


def _zip(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """One member of an archive; checksums of the archive are made anew, a comment stays."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        comment, members = archive.comment, [(info.filename, archive.read(info)) for info in archive.infolist()]
    number = rng.randrange(len(members))
    name, old = members[number]
    what = rng.random()
    packing = zipfile.ZIP_STORED
    if what < 0.08:
        del members[number]
        said = f"member {name} removed"
    elif what < 0.14:
        members.append((name, rng.choice(members)[1]))
        said = f"member {name} twice"
    elif what < 0.2:
        members[number] = (rng.choice(("../../" + name, name + "x", "/etc/" + name)), old)
        said = f"member {name} renamed to {members[number][0]}"
    elif what < 0.22:
        members[number], packing = (name, bytes(1 << 28)), zipfile.ZIP_DEFLATED
        said = f"member {name} is 256 MB of zeros, compressed"
    else:
        new, said = damaged(rng, old, "json" if name.endswith(".json") else "safetensors" if name.endswith(".safetensors") else "bytes")
        members[number], said = (name, new), f"member {name}: {said}"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, each in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = packing
            archive.writestr(info, each)
        archive.comment = comment
    return stream.getvalue(), said


def _npy(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """The header of an array: kind of number, shape, order; its length stays right."""
    (length,) = struct.unpack_from("<H", content, 8)
    header = content[10 : 10 + length].decode("latin1")
    found, new = rng.choice(
        (("<f8", "<f4"), ("<f8", ">f8"), ("<f8", "<i8"), ("<i4", "<u4"), ("<i4", "<i8"), ("<u8", "<i8"), ("<u8", "|O8"), ("<f4", "<c8"))
        + (("|u1", "|i1"), ("<u4", "|S4"), ("False", "True"), ("(", "(2, "), (",)", ", 10)"), (",)", ", 0)"), ("descr", "desc"))
    )
    if found not in header:
        body, said = damaged_bytes(rng, content[10 + length :])
        return content[: 10 + length] + body, f"numbers: {said}"
    header = header.replace(found, new, 1).rstrip() + "\n"
    encoded = header.encode("latin1")
    return content[:8] + struct.pack("<H", len(encoded)) + encoded + content[10 + length :], f"header: {found} is now {new}"


def _lmdb(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """One value of an LMDB file, which stays a sound LMDB file."""
    import lmdb

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.mdb"
        file.write_bytes(content)
        with lmdb.open(str(file), subdir=False, lock=False, map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
            items = list(transaction.cursor())
            key, value = rng.choice(items)
            what = rng.random()
            if what < 0.1:
                transaction.delete(key)
                said = f"key {key.hex()} removed"
            elif what < 0.2:
                transaction.put(rng.choice((b"", key + b"\0", b"\xff" * 8)) or b"x", value)
                said = "a key added"
            else:
                new, said = damaged_bytes(rng, bytes(value))
                transaction.put(key, new)
                said = f"value of key {key.hex()}: {said}"
        return file.read_bytes(), said


def _parquet(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """What a Parquet file says of itself, or one of its columns; the file stays sound."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(pyarrow.BufferReader(content), use_threads=False)
    metadata = dict(table.schema.metadata or {})
    if rng.random() < 0.7 and b"unipot" in metadata:
        text, said = damaged_json(rng, metadata[b"unipot"].decode())
        table = table.replace_schema_metadata({**metadata, b"unipot": _encoded(text)})
        said = f"description: {said}"
    else:
        name = rng.choice([name for name in table.column_names if name in ("id", "positions", "atomic_numbers", "energy", "pbc", "cell")])
        position = table.column_names.index(name)
        nulls = pyarrow.nulls(len(table), table.schema.field(name).type)
        table = table.drop_columns([name]) if rng.random() < 0.5 else table.set_column(position, name, nulls)
        said = f"column {name} is gone, or empty"
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream, compression="zstd")
    return stream.getvalue(), said


KINDS: dict[str, Change | None] = {
    "bytes": None,
    "json": _json,
    "json-lines": _json_lines,
    "text": _text,
    "safetensors": _safetensors,
    "zip": _zip,
    "npy": _npy,
    "lmdb": _lmdb,
    "parquet": _parquet,
}
