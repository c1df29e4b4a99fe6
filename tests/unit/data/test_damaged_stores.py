"""A damaged store is one sentence: no other numbers, no end of the interpreter, no waiting, no memory that it claims."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import struct
from pathlib import Path

import lmdb
import numpy as np
import pytest

from unipot.data.charge_states import charge_states
from unipot.data.storage.checksums import SEAL
from unipot.data.storage.columns import COLUMNS, OFFSETS_OF, RAGGED
from unipot.data.storage.decode import decode_batch
from unipot.data.storage.lmdb_file import LmdbFile
from unipot.data.store import Store, StoreWriter
from unipot.structure import Structure

GOLDEN = Path(__file__).parents[2] / "golden" / "store-v2.unipot"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A store of 60 periodic structures, with and without compression: records of equal length, so that one can pass for another."""
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    for name, compression in (("plain", None), ("zstd", "zstd")):
        if compression and not _has_zstandard():
            continue
        options = {"name": name, "level_of_theory": "PBE", "labels": ("energy", "forces"), "compression": compression}
        with StoreWriter(folder / f"{name}.unipot", **options) as writer:
            for k in range(60):
                labels = {"energy": rng.normal(), "forces": rng.normal(size=(40, 3))}
                geometry = {"atomic_numbers": rng.integers(1, 30, 40), "positions": rng.random((40, 3)), "cell": np.eye(3) * 9, "pbc": True}
                state = {"total_charge": float(k % 2), "spin_multiplicity": k % 3 + 1}
                writer.add(Structure(**geometry, **state, labels=labels, id=f"s{k:02d}", group=f"g{k % 7}"))
            writer.attach("census.json", {"n_groups": 7})
    return folder


def _has_zstandard() -> bool:
    try:
        import zstandard  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.fixture
def store(sound, tmp_path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(sound / "plain.unipot", tmp_path / "plain.unipot"))


def contents(path: Path) -> str:
    """A hash of everything that can be read from a store."""
    store, digest = Store(path), hashlib.sha256()
    digest.update(json.dumps([store.name, store.level_of_theory, store.labels, store.metadata["elements"], list(store.ids)]).encode())
    for name in COLUMNS:
        digest.update(np.ascontiguousarray(store.column(name)).tobytes())
    digest.update(store.composition_counts().tobytes())
    batch = decode_batch([store], [(0, k) for k in range(len(store))], cutoff=None)
    state = (batch.pbc, batch.total_charge, batch.spin_multiplicity)
    for array in (batch.positions, batch.cell, batch.atomic_numbers, *state, *batch.labels.values()):
        digest.update(array.numpy().tobytes())
    return digest.hexdigest() + str(batch.ids) + str([store[k].group for k in (0, 31)])


def mutated(content: bytes, number: int, within: range | None = None) -> bytes:
    """One flipped bit, one other byte, a cut, zeros, random bytes, or bytes of another place; the same for the same number."""
    rng, data = random.Random(number), bytearray(content)
    place = rng.choice(within) if within else rng.randrange(len(data))
    size = rng.choice((1, 2, 4, 8, 64, 4096))
    kind = rng.randrange(6)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[place] = (data[place] + rng.randrange(1, 256)) % 256
    elif kind == 2 and not within:
        del data[place:]
    elif kind == 3:
        data[place : place + size] = bytes(len(data[place : place + size]))
    elif kind == 4:
        data[place : place + 8] = rng.randbytes(len(data[place : place + 8]))
    else:
        other = rng.randrange(len(data) - size + 1) if len(data) > size else 0
        data[place : place + size] = data[other : other + len(data[place : place + size])]
    return bytes(data)


def outcome(path: Path, expected: str) -> str:
    try:
        found = contents(path)
    except (ValueError, FileNotFoundError) as error:
        return "" if "\n" not in str(error) and str(path) in str(error) else f"not one sentence with the path: {error}"
    return "" if found == expected else "other numbers"


def reported(queue, path: Path, file: str, numbers: range, within: range | None) -> None:
    original, expected = (path / file).read_bytes(), contents(path)
    problems = {}
    for number in numbers:
        (path / file).write_bytes(mutated(original, number, within))
        problems[number] = outcome(path, expected)
    queue.put({number: problem for number, problem in problems.items() if problem})


def problems_of(path: Path, file: str, numbers: range, within: range | None = None) -> dict[int, str]:
    """Mutant -> what was wrong, read in a process of its own, which a damaged page may not end."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=reported, args=(queue, path, file, numbers, within))
    process.start()
    process.join(120)
    assert process.exitcode == 0, f"the process ended with {process.exitcode}"
    return queue.get()


@pytest.mark.parametrize("name", ["plain", "zstd"])
def test_no_damage_of_a_shard_gives_other_numbers_or_ends_the_process(sound, tmp_path, name):
    if not (sound / f"{name}.unipot").exists():
        pytest.skip("the package for compressed stores is not installed")
    path = Path(shutil.copytree(sound / f"{name}.unipot", tmp_path / "a.unipot"))
    assert problems_of(path, "shards/00000.mdb", range(100)) == {}


def test_no_damage_of_the_pages_that_lead_to_records_does_either(store):
    content = (store / "shards" / "00000.mdb").read_bytes()
    pages = [k for k in range(len(content) // 4096) if k < 2 or content[4096 * k + 10] in (1, 2)]
    heads = [4096 * page + byte for page in pages for byte in range(152 if page < 2 else 64)]
    assert problems_of(store, "shards/00000.mdb", range(150), heads) == {}


@pytest.mark.parametrize("name", sorted({*COLUMNS, *RAGGED, *OFFSETS_OF.values()}))
def test_no_damage_of_a_column_gives_other_numbers(store, name):
    assert problems_of(store, f"index/{name}.npy", range(8)) == {}


def test_no_damage_of_the_metadata_gives_other_numbers(store):
    assert problems_of(store, "metadata.json", range(100)) == {}


def test_damage_of_a_store_of_an_earlier_version_ends_no_process(tmp_path):
    path = Path(shutil.copytree(GOLDEN, tmp_path / "old.unipot"))
    context = multiprocessing.get_context("fork")
    process = context.Process(target=read_mutants_of_an_old_store, args=(path,))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def read_mutants_of_an_old_store(path: Path) -> None:
    names = ("n_atoms", "block", "offset", "length", "ids_offsets", "composition_offsets")
    for file in ["shards/00000.mdb", *[f"index/{name}.npy" for name in names]]:
        original = (path / file).read_bytes()
        for number in range(25):
            (path / file).write_bytes(mutated(original, number))
            try:
                store = Store(path)
                _ = [store[k] for k in range(len(store))], list(store.ids), store.composition_counts(), store.n_atoms
            except ValueError:
                pass
        (path / file).write_bytes(original)


def test_a_record_of_the_same_length_in_the_place_of_another_is_noticed(store):
    column = np.load(store / "index" / "offset.npy")
    metadata = json.loads((store / "metadata.json").read_text())
    del metadata["files"], metadata[SEAL]  # so that only the records' own checksums are left
    (store / "metadata.json").write_text(json.dumps(metadata))
    np.save(store / "index" / "offset.npy", column[[1, 0, *range(2, len(column))]])
    with pytest.raises(ValueError, match=r"structure 0 \('s00'.*its checksum differs"):
        Store(store)[0]


@pytest.mark.parametrize("byte", [14, 12, 16], ids=["periodicity", "multiplicity", "charge"])
def test_a_damaged_header_is_found_while_a_batch_is_read(store, byte):
    opened = Store(store)
    shard = store / "shards" / "00000.mdb"
    content = bytearray(shard.read_bytes())
    content[content.index(bytes(opened.record(5))) + byte] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"plain\.unipot, shard 00000.mdb, structure 5 \('s05'.*its checksum differs"):
        decode_batch([Store(store)], [(0, 4), (0, 5)], cutoff=None)


def test_a_damaged_force_is_found_while_a_batch_of_an_old_store_is_read(tmp_path):
    path = Path(shutil.copytree(GOLDEN, tmp_path / "old.unipot"))
    shard = path / "shards" / "00000.mdb"
    content = bytearray(shard.read_bytes())
    content[content.index(struct.pack("<d", 0.5))] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="structure 0 .*its checksum differs"):
        decode_batch([Store(path)], [(0, 0)], cutoff=None)


def test_a_file_that_shrinks_while_it_is_open_is_one_sentence(store):
    opened = Store(store)
    os.truncate(store / "shards" / "00000.mdb", 8192)
    with pytest.raises(ValueError, match="shard 00000.mdb, structure 59.*it has 8192 bytes") as caught:
        opened[59]
    assert str(caught.value).count("cannot be read:") == 1


def test_verify_looks_at_attachments_and_at_bytes_that_hold_no_number(store):
    (store / "census.json").write_text('{"n_groups": 8}')
    with pytest.raises(ValueError, match="census.json does not match the recorded hash"):
        Store(store).verify()
    with pytest.raises(ValueError, match="census.json does not match the recorded hash"):
        charge_states(Store(store))


def test_edited_metadata_are_refused_with_the_way_out(store):
    metadata = json.loads((store / "metadata.json").read_text())
    metadata["level_of_theory"] = "HSE06"
    (store / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="does not match its own checksum.*delete the entry 'checksum'"):
        Store(store)
    del metadata[SEAL]
    (store / "metadata.json").write_text(json.dumps(metadata))
    assert Store(store).level_of_theory == "HSE06"


# What could hang, take memory or lead out of the folder.


def described(store: Path, **changes: object) -> None:
    metadata = json.loads((store / "metadata.json").read_text())
    del metadata[SEAL]
    (store / "metadata.json").write_text(json.dumps({**metadata, **changes}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format_version": -(2**63)}, "format_version is -9223372036854775808"),
        ({"n_structures": 2**62}, "n_structures is 4611686018427387904; it must be a whole number"),
        ({"n_structures": 10**9}, "shards hold 60 structures, n_structures is 1000000000"),
        ({"n_atoms": "many"}, "n_atoms is 'many'"),
        ({"shards": []}, "shards is not a list with an entry"),
        ({"elements": {"Xx": 3}}, "element 'Xx' is not known"),
        ({"labels": ["energy", "colour"]}, "label 'colour' has no place in a record"),
        ({"compression": "rar"}, "compression is 'rar'"),
        ({"level_of_theory": ""}, "level_of_theory is '', no text"),
        ({"files": {"../x": {"bytes": 1, "crc32": 1}}}, "the file '../x' is not one of the store's folder"),
    ],
)
def test_metadata_that_cannot_be_true_are_one_sentence(store, changes, sentence):
    described(store, **changes)
    with pytest.raises(ValueError, match=r"plain\.unipot: metadata\.json cannot") as caught:
        Store(store)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["/etc/hostname", "../outside.mdb", "..", "a/b.mdb", ""])
def test_a_shard_outside_the_folder_is_refused(store, file):
    shards = json.loads((store / "metadata.json").read_text())["shards"]
    shutil.copy(store / "shards" / "00000.mdb", store / "outside.mdb")
    described(store, shards=[{**shards[0], "file": file}])
    with pytest.raises(ValueError, match="is not a file of the store's folder"):
        Store(store)


@pytest.mark.parametrize("file", ["shards/00000.mdb", "index/ids.npy"])
def test_a_link_out_of_the_folder_is_refused(store, tmp_path, file):
    shutil.move(store / file, tmp_path / "elsewhere")
    (store / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link out of the store's folder.*cp -rL"):
        Store(store).ids  # noqa: B018


def test_a_store_behind_a_link_is_read(store, tmp_path):
    (tmp_path / "link.unipot").symlink_to(store)
    assert len(list(Store(tmp_path / "link.unipot"))) == 60


@pytest.mark.timeout(60)
@pytest.mark.parametrize("file", ["shards/00000.mdb", "index/n_atoms.npy", "index/record_crc32.npy"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(store, file):
    (store / file).unlink()
    os.mkfifo(store / file)
    with pytest.raises(ValueError, match="is not a regular file"):
        Store(store).column("n_atoms"), Store(store)[0]


def test_a_column_that_claims_more_than_its_file_holds_takes_no_memory(tmp_path):
    path = Path(shutil.copytree(GOLDEN, tmp_path / "old.unipot"))
    file = path / "index" / "ids_offsets.npy"
    file.write_bytes(file.read_bytes().replace(b"(4,)", b"(9999999999999,)").replace(b" " * 12, b"", 1))
    with pytest.raises(ValueError, match=r"ids_offsets\.npy is missing or damaged"):
        Store(path).ids  # noqa: B018


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("n_atoms", [3, 2, 10**9], "counts more atoms than a record has room for"),
        ("n_atoms", [3, 2, -1], "a number between rows 0 and 3 is not possible"),
        ("ids_offsets", [0, 5, 4, 14], "its offsets fall between rows 0 and 4"),
        ("ids_offsets", [0, 5, 8, 2**60], "ids_offsets.npy ends at 1152921504606846976"),
        ("composition_offsets", [0, 2, 4, 400], "composition_offsets.npy ends at 400"),
    ],
)
def test_columns_without_checksums_are_looked_at_before_they_are_used(tmp_path, name, values, sentence):
    path = Path(shutil.copytree(GOLDEN, tmp_path / "old.unipot"))
    np.save(path / "index" / f"{name}.npy", np.array(values, dtype=np.load(path / "index" / f"{name}.npy").dtype))
    with pytest.raises(ValueError, match=sentence):
        Store(path).n_atoms, Store(path).ids, Store(path).composition_counts()


# LMDB files without liblmdb.


@pytest.mark.parametrize("n", [0, 1, 3, 700, 12_000])
def test_a_file_reads_as_liblmdb_reads_it(tmp_path, n):
    file, rng = tmp_path / "a.mdb", random.Random(n)
    values = {str(k).encode() * (1 + k % 3): rng.randbytes(rng.choice((0, 1, 30, 1500)) if k % 50 else 9000) for k in range(n)}
    with lmdb.open(str(file), subdir=False, lock=False, map_size=1 << 27) as environment:
        for start in range(0, n, 5000):
            with environment.begin(write=True) as transaction:
                for key in list(values)[start : start + 5000]:
                    transaction.put(key, values[key])
        with environment.begin(write=True) as transaction:
            for key in list(values)[::7]:
                transaction.delete(key)
                del values[key]
    with LmdbFile(file) as read:
        found = {key: read.read(int(at), int(size)) for keys, *places in read.leaves() for key, at, size in zip(keys, *places, strict=True)}
        assert list(found) == sorted(values) and found == values and read.n_entries == len(values)
        assert all(read.get(key) == values[key] for key in list(values)[:: max(1, n // 200)])
        assert read.get(b"absent") is None


def test_one_file_may_be_read_many_times_at_once_and_after_a_fork(store):
    first, second = Store(store), Store(store)
    expected = first[7].labels["energy"]
    assert second[7].labels["energy"] == expected
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put([float(opened[7].labels["energy"]) for opened in (first, second, Store(store))]))
    process.start()
    assert queue.get() == [float(expected)] * 3
    process.join()


def test_reading_needs_no_environment_of_lmdb(store, monkeypatch):
    def refuse(*args: object, **options: object) -> None:
        raise lmdb.Error("already open in this process")  # as versions 2 and 3 say when a file is opened twice

    monkeypatch.setattr(lmdb, "open", refuse)
    assert len(list(Store(store))) == 60
    Store(store).verify()


def test_what_is_no_lmdb_file_is_said(tmp_path):
    (tmp_path / "a.mdb").write_bytes(b"<html>" * 4000)
    with pytest.raises(ValueError, match="it is not an LMDB file"):
        LmdbFile(tmp_path / "a.mdb")
