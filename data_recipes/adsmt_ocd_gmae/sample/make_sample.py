"""Writes an unpacked `OCD-GMAE.tar.gz` in the raw format: LMDB of serialised graphs, invented slabs, EMT adsorption energies.

The raw file's graphs were serialised with PyTorch Geometric 2.2, which is not needed here: the few operations of such a
stream are written out by hand. The other AdsMT samples use the same functions.
"""

import io
import struct
from pathlib import Path

import lmdb
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.emt import EMT

SYSTEMS = (("Cu", "CO", "C#O"), ("Pt", "H2O", "O"), ("Pt", "NH3", "N"))


def systems(chosen: tuple[tuple[str, str, str], ...] = SYSTEMS) -> list[tuple[Atoms, Atoms, float, str]]:
    """Slab, slab with adsorbate (tags 0, 1, 2), adsorption energy and SMILES of the adsorbate."""
    found = []
    for metal, name, smiles in chosen:
        slab = fcc111(metal, size=(2, 2, 2), vacuum=7.0, periodic=True)
        slab.set_tags([0] * 4 + [1] * 4)
        guest = molecule(name, tags=[2] * len(molecule(name)))
        both = slab.copy()
        add_adsorbate(both, guest, 2.2, "ontop", mol_index=int(guest.positions[:, 2].argmin()))
        found.append((slab, both, energy_of(both) - energy_of(slab) - energy_of(guest), smiles))
    return found


def energy_of(atoms: Atoms) -> float:
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms.get_potential_energy()


def graph(slab: Atoms, both: Atoms, energy: float, smiles: str) -> dict:
    """The fields of a record; `ads_des` is a descriptor of the adsorbate."""
    return {
        "atomic_numbers": torch.tensor(slab.numbers, dtype=torch.float32),
        "pos": torch.tensor(slab.positions, dtype=torch.float32),
        "cell": torch.tensor(slab.cell.array[None], dtype=torch.float32),
        "natoms": len(slab),
        "tags": torch.tensor(slab.get_tags()),
        "ads_smi": smiles,
        "ads_des": torch.arange(3.0),
        "y_relaxed": energy,
        "gmae_pos": torch.tensor(both.positions, dtype=torch.float32),
        "gmae_atom_numb": torch.tensor(both.numbers),
        "gmae_tags": torch.tensor(both.get_tags()),
        "site": "ontop",
    }


def bare(fields: dict) -> dict:
    """The same record without the adsorbed configuration."""
    return {name: value for name, value in fields.items() if not name.startswith("gmae_")}


def write(file: Path, records: list[dict]) -> None:
    """Keys 0, 1, ... and `length`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with lmdb.open(str(file), subdir=False, map_size=1 << 20, lock=False) as environment, environment.begin(write=True) as transaction:
        for key, fields in enumerate(records):
            transaction.put(str(key).encode(), serialised(fields))
        transaction.put(b"length", b"\x80\x03" + value(len(records)) + b".")


def serialised(fields: dict) -> bytes:
    """A stream (protocol 3) that describes a `torch_geometric.data.Data` with these fields."""
    data = name("torch_geometric.data.data", "Data") + b")\x81q\x00"
    store = name("torch_geometric.data.storage", "GlobalStorage") + b")\x81"
    state = b"}(" + value("_mapping") + value(fields) + value("_parent") + b"h\x00u"
    return b"\x80\x03" + data + b"}(" + value("_store") + store + state + b"bub."


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def value(item: object) -> bytes:
    """The operations that push one value."""
    match item:
        case bool():
            return b"\x88" if item else b"\x89"
        case int():
            return b"J" + struct.pack("<i", item)
        case float():
            return b"G" + struct.pack(">d", item)
        case str():
            return b"X" + struct.pack("<I", len(item.encode())) + item.encode()
        case bytes():
            return b"B" + struct.pack("<I", len(item)) + item
        case tuple():
            return b"(" + b"".join(map(value, item)) + b"t"
        case dict():
            return b"}(" + b"".join(value(key) + value(entry) for key, entry in item.items()) + b"u"
        case torch.Tensor():
            return tensor(item)
    raise TypeError(type(item))


def tensor(item: torch.Tensor) -> bytes:
    """A call of torch's function that puts a tensor together from its storage, whose bytes are in the stream."""
    buffer = io.BytesIO()
    torch.save(item.contiguous()._typed_storage(), buffer, _use_new_zipfile_serialization=False)
    storage = name("torch.storage", "_load_from_bytes") + value((buffer.getvalue(),)) + b"R"
    hooks = name("collections", "OrderedDict") + b")R"
    layout = value(0) + value(tuple(item.shape)) + value(tuple(item.contiguous().stride())) + value(False)
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + layout + hooks + b"tR"


def records() -> list[dict]:
    found = [graph(*system) for system in systems()]
    return [*found, bare(found[0])]


if __name__ == "__main__":
    write(Path(__file__).parent / "OCD-GMAE" / "OCD-GMAE" / "data.lmdb", records())
