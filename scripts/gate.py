"""Does a change of the source leave every number as it was? Runs small trainings and writes hashes of all weights they make.

    python scripts/gate.py out=before.json             # at one commit, from the root of a checkout
    python scripts/gate.py out=after.json              # at another one
    python scripts/gate.py compare before.json after.json   # names what differs; exit code 1 if anything does

A pure refactoring must leave both files equal, bit for bit, on one machine with one set of packages. The runs go through the public
command line only, in processes of their own with one thread and fixed seeds, on frames labelled by ASE's EMT and by xTB (tblite):

    pretrain           20 steps of `experiment=smoke`, two sets
    search             fine-tuning with its defaults: distillation is weighed and refused, the folds choose rate, strategy and length
    held_out           fine-tuning with held-out frames, replay of the pretraining sets and of self-labelled structures, a further set
                       of the user's, a property, forgetting, and an ensemble for error bars
    corrected          fine-tuning after distillation from GFN2-xTB, whose labels two models, found on the folds, correct
    periodic           the same for periodic frames, with GFN1-xTB, moved by a first model

Options: `out=FILE` (required), `runs=NAME,NAME` (some of the above; `pretrain` always runs), `keep=FOLDER` (leave the run folders there).
The package is imported from PYTHONPATH, or from this checkout where that is not set.

What is written, per run: every tensor of every `.safetensors` file in its folder (SHA-256 of dtype, shape and bytes), and all numbers of
its JSON files, of `metrics.csv` and of the models' cards that do not measure time, memory or size on disk. No module of the package is
imported here, so the script works wherever modules move.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
#: packages whose version may change the last bits
PACKAGES = ("torch", "numpy", "scipy", "numba", "ase", "tblite", "lightning")
#: parts of names of numbers that differ between two runs of one commit, or that may change with a format
UNSTABLE = ("second", "time", "date", "duration", "memory", "bytes", "speed", "version", "sha256", "digest", "throughput")
#: parts of JSON files that repeat numbers as text
TEXTS = ("table", "tables", "sentences")
SAME_ENVIRONMENT = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "HF_HUB_OFFLINE")}
SAME_ENVIRONMENT |= {"WANDB_MODE": "offline", "PYTHONHASHSEED": "0", "COLUMNS": "140"}

ALL = ("trainer.threads=1", "trainer.progress=false")
FINETUNE = ("finetune", "checkpoint=pretrain/last.safetensors", *ALL, "schedule.warmup_steps=1", "trainer.validate_every=4")
LESSON = ("teacher.corrected=true", "teacher.steps_before=5", "teacher.steps_between=3", "teacher.max_steps=10", "teacher.own_steps=4")
#: two candidates so alike that both correct the teacher
ALIKE = (
    "small_data.folds=2", "small_data.candidates.other.optimizer.learning_rate=1.9e-3",
    *(f"small_data.candidates.{name}=null" for name in ("muon-5e-3", "muon-1e-3", "adamw-1e-3", "heads-only")),
)  # fmt: skip
#: name -> arguments of `unipot`; folders are relative to the temporary one
RUNS: dict[str, tuple[str, ...]] = {
    "pretrain": (
        "pretrain", "experiment=smoke", *ALL, "datasets.molecules.path=molecules.extxyz", "datasets.molecules.level_of_theory=EMT",
        "datasets.metals.path=metals.extxyz", "datasets.metals.level_of_theory=EMT-metals", "datasets.metals.labels=[energy,forces,stress]",
    ),
    # `stated=[]`: the steps count as the shipped ones, so that the search looks at the length too
    "search": (*FINETUNE, "data=methanol.extxyz", "test_data=test.extxyz", "schedule.max_steps=16", "stated=[]"),
    "held_out": (
        *FINETUNE, "data=methanol.extxyz", "test_data=test.extxyz", "validation_data=test.extxyz", "schedule.max_steps=8", "small_data=off",
        "teacher.method=none", "pretrain_run=pretrain", "replay_pretrain_run=true", "self_replay.structures=sample",
        "self_replay.max_structures=4", "also.ethanol.path=ethanol.extxyz", "properties.gap.key=gap", "properties.gap.unit=eV",
        "uncertainty=ensemble", "alignment=last-layer", "seed=1",
    ),
    "corrected": (
        *FINETUNE, *LESSON, *ALIKE, "data=methanol.extxyz", "test_data=test.extxyz", "teacher.method=gfn2-xtb", "teacher.frames=16",
        "schedule.max_steps=8",
    ),
    "periodic": (
        *FINETUNE, *LESSON, "data=box.extxyz", "teacher.method=gfn1-xtb", "teacher.periodic_atoms=24", "schedule.max_steps=4",
        "small_data=off", "validation_fraction=0", "uncertainty=none",
    ),
}  # fmt: skip


def main(words: list[str]) -> int:
    """Exit code of `out=FILE [runs=…] [keep=…]`, or of `compare A B`."""
    if words[:1] == ["compare"] and len(words) == 3:
        return compare(Path(words[1]), Path(words[2]))
    options = dict(word.split("=", 1) for word in words if "=" in word)
    if len(options) != len(words) or "out" not in options or not set(options) <= {"out", "runs", "keep"}:
        print(__doc__, file=sys.stderr)
        return 2
    names = ["pretrain", *(name for name in options.get("runs", ",".join(RUNS)).split(",") if name != "pretrain")]
    if unknown := sorted(set(names) - set(RUNS)):
        print(f"run {unknown[0]!r} is not known; runs are: {', '.join(RUNS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="unipot-gate-") as temporary:
        folder = Path(options.get("keep", temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        write_frames(folder)
        runs = {name: outcome(name, folder) for name in names}
    content = {"packages": {name: version(name) for name in PACKAGES}, "machine": platform.machine(), "runs": runs}
    Path(options["out"]).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    failed = [name for name, run in runs.items() if "error" in run]
    print(f"{options['out']}: {sum(len(run.get('tensors', {})) for run in runs.values())} tensors of {len(runs)} runs")
    return 1 if failed else 0


def outcome(name: str, folder: Path) -> dict[str, Any]:
    """Hashes and numbers of one run, or the end of what it printed where it failed."""
    start = time.monotonic()
    environment = {**os.environ, **SAME_ENVIRONMENT, "PYTHONPATH": os.environ.get("PYTHONPATH") or str(ROOT)}
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(part).resolve()) for part in environment["PYTHONPATH"].split(os.pathsep))
    command = [sys.executable, "-m", "unipot.cli", *RUNS[name], f"run={name}"]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (folder / f"{name}.log").write_text(done.stdout)
    print(f"{name}: exit code {done.returncode}, {time.monotonic() - start:.0f} s", flush=True)
    if done.returncode != 0:
        print(done.stdout[-3000:], file=sys.stderr)
        return {"error": f"exit code {done.returncode}: {done.stdout[-500:]}"}
    return {"tensors": tensor_hashes(folder / name), "numbers": numbers_of(folder / name)}


# what the models are trained on


def write_frames(folder: Path) -> None:
    """Molecules and metals to pretrain on, methanol to fine-tune on and to test with, ethanol beside it, methanol in a periodic box."""
    from ase.build import bulk, molecule
    from ase.calculators.emt import EMT
    from ase.io import write
    from tblite.ase import TBLite

    def xtb(method: str) -> Any:
        return TBLite(method=method, verbosity=0)

    rng = np.random.default_rng(0)
    small = [moved(molecule(("CO", "N2", "H2O", "CH3OH")[k % 4]), rng) for k in range(24)]
    write(folder / "molecules.extxyz", [labelled(atoms, EMT()) for atoms in small])
    metals = [moved(bulk(("Cu", "Ni", "Al")[k % 3], "fcc", a=(3.6, 3.5, 4.05)[k % 3], cubic=True), rng) for k in range(12)]
    write(folder / "metals.extxyz", [labelled(atoms, EMT()) for atoms in metals])
    for name, n in (("methanol", 8), ("test", 4)):
        write(folder / f"{name}.extxyz", [labelled(moved(molecule("CH3OH"), rng), EMT()) for _ in range(n)])
    write(folder / "ethanol.extxyz", [labelled(moved(molecule("CH3CH2OH"), rng), EMT()) for _ in range(6)])
    boxes = [moved(molecule("H2O", pbc=True, cell=[6.0, 6.0, 6.0]), rng) for _ in range(4)]
    write(folder / "box.extxyz", [labelled(atoms, xtb("GFN2-xTB")) for atoms in boxes])


def moved(atoms: Any, rng: np.random.Generator) -> Any:
    atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
    return atoms


def labelled(atoms: Any, calculator: Any) -> Any:
    """`atoms` with energy, forces, stress where periodic, and a made-up gap that depends on the geometry."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms.calc = calculator
    results = {"energy": float(atoms.get_potential_energy()), "forces": np.array(atoms.get_forces())}
    if atoms.pbc.all():
        results["stress"] = np.array(atoms.get_stress())
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info["gap"] = round(float(atoms.get_all_distances().mean()), 6)
    return atoms


# what is compared


def tensor_hashes(run: Path) -> dict[str, str]:
    """`file: tensor` -> SHA-256 of dtype, shape and bytes. Files of the folds have names out of settings, and are numbered by content."""
    hashes: dict[str, str] = {}
    folds: list[dict[str, str]] = []
    for path in sorted(run.rglob("*.safetensors")):
        found, _ = read_tensors(path)
        if path.parent.name == "small_data_folds":
            folds.append(found)
        else:
            hashes |= {f"{path.relative_to(run)}: {name}": value for name, value in found.items()}
    for number, found in enumerate(sorted(folds, key=lambda each: sorted(each.items())), start=1):
        hashes |= {f"small_data_folds/{number}: {name}": value for name, value in found.items()}
    return hashes


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Hashes of the tensors of a safetensors file, and the card in its metadata (empty where there is none)."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    hashes = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        digest = hashlib.sha256(json.dumps([entry["dtype"], entry["shape"]]).encode())
        digest.update(content[8 + length + begin : 8 + length + end])
        hashes[name] = digest.hexdigest()
    cards = [json.loads(text) for text in metadata.values() if text.startswith("{")]
    return hashes, cards[0] if cards else {}


def numbers_of(run: Path) -> dict[str, float | bool | None]:
    """Every number of the JSON files, of `metrics.csv` and of the cards that two runs of one commit have in common."""
    numbers: dict[str, float | bool | None] = {}
    for path in sorted([*run.glob("*.json"), *run.glob("evaluations/**/*.json")]):
        numbers |= {f"{path.relative_to(run)}: {key}": value for key, value in leaves(json.loads(path.read_text()))}
    for path in sorted(run.glob("*.safetensors")):
        numbers |= {f"card of {path.name}: {key}": value for key, value in leaves(read_tensors(path)[1])}
    with (run / "metrics.csv").open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            numbers |= {f"metrics.csv, row {number}: {key}": float(value) for key, value in row.items() if value and not is_unstable(key)}
    return numbers


def leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, float | bool | None]]:
    if isinstance(content, dict) and content and all(re.fullmatch("[0-9a-f]{32,}", key) for key in content):
        content = list(content.values())  # trials under a digest of their settings and of the times of files
    if isinstance(content, dict):
        for key, value in content.items():
            if key not in TEXTS and not is_unstable(key):
                yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from leaves(value, f"{prefix}[{number}]")
    elif content is None or isinstance(content, int | float):
        yield prefix, content


def is_unstable(key: str) -> bool:
    return any(word in key.lower() for word in UNSTABLE)


def compare(first: Path, second: Path) -> int:
    """Print what differs between two files written with `out=`; 1 if anything does."""
    one, other = (json.loads(path.read_text()) for path in (first, second))
    for name in sorted(one["packages"].keys() | other["packages"].keys()):
        if one["packages"].get(name) != other["packages"].get(name):
            print(f"note: {name} is {one['packages'].get(name)} in {first} and {other['packages'].get(name)} in {second}")
    n_different = n_equal = 0
    for run in sorted(one["runs"].keys() | other["runs"].keys()):
        a, b = (content["runs"].get(run, {"error": "not run"}) for content in (one, other))
        if message := next((f"{path}: {side['error']}" for path, side in ((first, a), (second, b)) if "error" in side), None):
            print(f"{run}: {message}")
            n_different += 1
            continue
        for kind in ("tensors", "numbers"):
            keys = sorted(a[kind].keys() | b[kind].keys())
            different = [key for key in keys if repr(a[kind].get(key, "absent")) != repr(b[kind].get(key, "absent"))]  # NaN is NaN
            n_different, n_equal = n_different + len(different), n_equal + len(keys) - len(different)
            for key in different:
                print(f"{run}, {key}: {shown(a[kind].get(key, 'absent'))} | {shown(b[kind].get(key, 'absent'))}")
    print(f"{n_equal} equal, {n_different} different")
    return 1 if n_different or not n_equal else 0


def shown(value: Any) -> str:
    return value[:12] if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
