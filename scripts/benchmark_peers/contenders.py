"""Who is measured: one line per model."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark_peers.conditions import REPOSITORY


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One model of one package.

    Attributes:
        label: in tables.
        package: whose environment it needs.
        model: what the worker calls it; for unipot the name of a file of `conf/backbone`, or `escn-md`.
        worker: script of its process.
        compiled: whether it predicts through the graph that its package compiles; takes part in `throughput` and `md` alone.
    """

    label: str
    package: str
    model: str
    worker: str
    compiled: bool = False

    @property
    def key(self) -> str:
        """Name on the command line and in file names."""
        name = f"{self.package}-{self.model}".lower().replace("+", "-") if self.package != "unipot" else self.model
        return f"{name}-compiled" if self.compiled else name


def _contender(label: str, package: str, model: str, compiled: bool = False) -> Contender:
    return Contender(label=label, package=package, model=model, worker=f"{package}_worker.py", compiled=compiled)


CONTENDERS = (
    _contender("native-mini", "unipot", "native-mini"),
    _contender("native-mini, compiled", "unipot", "native-mini", compiled=True),
    _contender("native-small", "unipot", "native-small"),
    _contender("native-small, compiled", "unipot", "native-small", compiled=True),
    _contender("native-medium", "unipot", "native-medium"),
    _contender("native-medium, compiled", "unipot", "native-medium", compiled=True),
    _contender("native-large", "unipot", "native-large"),
    _contender("NequIP preset S", "nequip", "S"),
    _contender("NequIP preset S, compiled", "nequip", "S", compiled=True),
    _contender("NequIP l=1, 32, 4 layers", "nequip", "l1-32x4"),
    _contender("NequIP l=2, 64, 3 layers", "nequip", "l2-64x3"),
    _contender("MACE 64x0e", "mace", "64x0e"),
    _contender("MACE 128x0e+128x1o", "mace", "128x0e+128x1o"),
    _contender("SevenNet l=2, 32, 3 layers", "sevenn", "l2-32x3"),
    _contender("TensorNet (matgl) 64×2", "matgl", "64x2"),
    _contender("Allegro l=2, 2 layers", "nequip", "allegro-l2-2"),
    _contender("DPA3, 3 layers (6 Å)", "deepmd", "dpa3-3"),
    _contender("eSCN-MD 2×64, through unipot", "unipot", "escn-md"),
)
PACKAGES = tuple(dict.fromkeys(c.package for c in CONTENDERS))


def available() -> tuple[Contender, ...]:
    """Contenders whose configuration is there; a size of unipot is one when `conf/backbone` has its file."""
    sizes = {path.stem for path in (REPOSITORY / "conf" / "backbone").glob("native-*.yaml")}
    return tuple(c for c in CONTENDERS if c.model in sizes or not c.model.startswith("native"))
