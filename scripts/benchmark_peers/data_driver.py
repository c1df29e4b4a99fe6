"""Reading batches from the data formats of unipot and its peers, in turns."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark_peers.driver import Job, WorkerError, WorkerProcess, measure_in_turns, say

BATCH_SIZE = 64
#: the format that ratios refer to is the peer's; what to call it
RAW, NEIGHBORS = "limit: bytes of the records", "limit: neighbour engine alone"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One format of one package.

    Attributes:
        label: in tables.
        package: whose environment it needs, and which `data_<package>_worker.py`.
        kind: what the worker calls it.
        source: label of the contender whose files it reads; None converts its own.
        edges: whether it is read with (True), without (False) or in both ways (None).
    """

    label: str
    package: str
    kind: str
    source: str | None = None
    edges: bool | None = None


CONTENDERS = (
    Contender(label="unipot", package="unipot", kind="store"),
    Contender(label="unipot float32", package="unipot", kind="store-float32"),
    Contender(label="unipot float32 zstd", package="unipot", kind="store-zstd"),
    Contender(label=RAW, package="unipot", kind="raw", source="unipot", edges=False),
    Contender(label=NEIGHBORS, package="unipot", kind="neighbors", source="unipot", edges=True),
    Contender(label="fairchem AseDBDataset", package="fairchem", kind="aselmdb"),
    Contender(label="MACE HDF5", package="mace", kind="hdf5", edges=True),
    Contender(label="MACE LMDB", package="mace", kind="lmdb", edges=True),
    Contender(label="Arrow + matscipy", package="arrow", kind="arrow"),
)

#: structures of each reference set, in this order
FRAMES = {
    "mptrj_1k": 1000, "alexandria_1k": 1000, "oc20_debug": 1000, "spice_sub": 673, "rmd17_aspirin": 500, "acac": 500,
    "water_revpbe0d3": 130, "pt_co": 197,
}  # fmt: skip
_SKIPPED = ("isolated_atoms", "test_H_transfer", "test_dihedral")


def write_source(data: Path, file: Path) -> dict[str, Any]:
    """5,000 real structures as one extended XYZ file; returns what they are."""
    from ase.io import write

    atoms = list(_frames(data))
    write(file, atoms, format="extxyz")
    sizes = [len(a) for a in atoms]
    return {"structures": len(atoms), "atoms": sum(sizes), "mean_atoms": sum(sizes) / len(sizes), "largest": max(sizes), "sets": FRAMES}


def _frames(data: Path) -> Iterator[Any]:
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import iread

    for name, count in FRAMES.items():
        left = count
        for file in sorted((data / name).glob("*xyz")):
            if file.stem in _SKIPPED:
                continue
            for atoms in iread(file, index=f":{left}"):
                results = {key: atoms.calc.results[key] for key in ("energy", "forces", "stress") if key in atoms.calc.results}
                atoms.info, atoms.calc = {}, SinglePointCalculator(atoms, **results)
                atoms.set_constraint()
                for key in set(atoms.arrays) - {"numbers", "positions"}:
                    del atoms.arrays[key]
                left -= 1
                yield atoms
            if left == 0:
                break


def measure(source: Path, work: Path, logs: Path, pythons: dict[str, str], n: int, options: Any) -> dict[str, Any]:
    """Convert with every package, then read in turns; with and without neighbours, with each number of workers."""
    report: dict[str, Any] = {"conversion": {}, "reading": {}, "errors": {}, "packages": {}}
    with ExitStack() as stack:
        workers = {
            package: stack.enter_context(
                WorkerProcess(python, f"data_{package}_worker.py", log=logs / f"data_{package}.log", threads=1, own=package == "unipot")
            )
            for package, python in pythons.items()
        }
        contenders = [c for c in CONTENDERS if c.package in workers]
        for contender in contenders:
            if contender.source is None:
                _convert(contender, workers[contender.package], source, work, n, report)
        contenders = [c for c in contenders if (c.source or c.label) in report["conversion"]]
        for number in options.workers:
            for edges in (False, True):
                jobs = dict(_jobs(contenders, workers, work, n, number, edges, options.cutoff, report))
                title = f"{'with' if edges else 'without'} neighbours, {number} workers"
                say(title)
                report["reading"][title] = measure_in_turns(jobs, rounds=options.rounds, slice_seconds=options.slice_seconds)
                if edges and number == min(options.workers):
                    report["edges"] = _edge_counts(contenders, workers, number, n)
                for worker in workers.values():
                    worker.ask("forget")
    return report


def _convert(contender: Contender, worker: WorkerProcess, source: Path, work: Path, n: int, report: dict[str, Any]) -> None:
    say(f"converting with {contender.label}")
    try:
        answer = worker.ask("convert", kind=contender.kind, source=str(source), target=str(work / contender.label))
    except WorkerError as error:
        report["errors"][contender.label] = str(error)
        return
    report["packages"] |= answer["packages"]
    report["conversion"][contender.label] = {
        "structures_per_second": n / answer["seconds"],
        "bytes_per_structure": answer["bytes"] / n,
    }


def _jobs(
    contenders: list[Contender],
    workers: dict[str, WorkerProcess],
    work: Path,
    n: int,
    number: int,
    edges: bool,
    cutoff: float,
    report: dict[str, Any],
) -> Iterator[tuple[str, Job]]:
    for contender in contenders:
        if contender.edges not in (None, edges):
            continue
        worker, key = workers[contender.package], f"{contender.kind}/{number}/{edges}"
        target = str(work / (contender.source or contender.label))
        try:
            worker.ask(
                "open",
                key=key,
                kind=contender.kind,
                target=target,
                cutoff=cutoff if edges else None,
                workers=number,
                n=n,
                batch_size=BATCH_SIZE,
            )
            worker.ask("read", key=key, steps=1)
        except WorkerError as error:
            report["errors"][f"{contender.label}, {number} workers, edges={edges}"] = str(error)
            continue
        yield contender.label, Job(run=_Read(worker, key))


class _Read:
    """Seconds and structures of some batches."""

    def __init__(self, worker: WorkerProcess, key: str) -> None:
        self.worker, self.key = worker, key

    def __call__(self, steps: int) -> tuple[float, float]:
        answer = self.worker.ask("read", key=self.key, steps=steps)
        return answer["seconds"], answer["structures"]


def _edge_counts(contenders: list[Contender], workers: dict[str, WorkerProcess], number: int, n: int) -> dict[str, int]:
    """Edges of one pass by each format: all must see the same graph."""
    counts = {}
    for contender in contenders:
        if contender.edges is False:
            continue
        try:
            answer = workers[contender.package].ask("read", key=f"{contender.kind}/{number}/True", steps=-(-n // BATCH_SIZE))
        except WorkerError as error:
            print(f"{contender.label}: {error}", file=sys.stderr)
            continue
        counts[contender.label] = round(answer["edges"] * n / answer["structures"])
    return counts
