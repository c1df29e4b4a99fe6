"""What every part of the benchmark needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark_peers.contenders import Contender
from benchmark_peers.driver import WorkerProcess


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Settings of one call.

    Attributes:
        pythons: package -> interpreter.
        contenders: whose package has an interpreter.
        reference: label of the contender that ratios refer to.
        data: folder of the reference data.
        work: folder for batches and stores.
        logs: folder for what the workers print.
        cutoff: Å.
        threads: numbers of threads to measure at.
        rounds: timed rounds after warm-up.
        slice_seconds: of one contender in one round.
        together: contenders whose processes are alive at once.
        seed: of weights and orders.
        hyperparameters: model -> changes to its size.
        recipes: model -> changes to its training recipe (see `race.Recipe`).
    """

    pythons: dict[str, str]
    contenders: tuple[Contender, ...]
    reference: str
    data: Path
    work: Path
    logs: Path
    cutoff: float
    threads: tuple[int, ...]
    rounds: int
    slice_seconds: float
    together: int
    seed: int
    hyperparameters: dict[str, dict[str, Any]]
    recipes: dict[str, dict[str, Any]]

    def start(self, contender: Contender, threads: int | None = None) -> WorkerProcess:
        """A fresh worker for one contender, with as many threads as are measured at most."""
        log = self.logs / f"{contender.key}.log"
        return WorkerProcess(self.pythons[contender.package], contender.worker, log=log, threads=threads or max(self.threads))

    def model_settings(self, contender: Contender, sizes: dict[str, Any], seed: int | None = None) -> dict[str, Any]:
        """Arguments of `build`; `sizes` has elements, edges_per_atom, force_rms and overall_force_rms."""
        return {
            "model": contender.model,
            "compiled": contender.compiled,
            "elements": sizes["elements"],
            "mean_neighbors": sizes["edges_per_atom"],
            "force_rms": sizes["force_rms"],
            "overall_force_rms": sizes["overall_force_rms"],
            "cutoff": self.cutoff,
            "threads": max(self.threads),
            "seed": self.seed if seed is None else seed,
            "hyperparameters": self.hyperparameters,
            "recipe": self.recipes.get(contender.model, {}),
        }

    def groups(self) -> list[list[Contender]]:
        """Contenders in groups that fit into memory together, the reference in each, so that ratios hold in every group."""
        anchors = [c for c in self.contenders if c.label == self.reference]
        others = [c for c in self.contenders if c.label != self.reference]
        size = max(1, self.together - len(anchors))
        return [[*anchors, *others[i : i + size]] for i in range(0, len(others), size)] or [anchors]


def with_unit_scales(sizes: dict[str, Any], elements: Sequence[int]) -> dict[str, Any]:
    """`sizes` for a model of all `elements` whose labels are noise."""
    return sizes | {"elements": list(elements), "force_rms": {str(z): 1.0 for z in elements}, "overall_force_rms": 1.0}
