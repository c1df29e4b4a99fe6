"""Worker for unipot: both backbones, and the mixture of real datasets. Runs in unipot's own environment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import unipot_formulas
import yaml
from frames import Arrays
from race import Recipe
from worker import Worker, serve

from unipot.batch import AtomBatch
from unipot.models import CompositionReference, CoreRepulsion, Head, HeadBank, Potential, build_backbone
from unipot.models.compiled import CompiledPotential
from unipot.resources import conf_dir
from unipot.training.optim import OptimizerSettings, build_optimizer, build_policy
from unipot.zoo import load_artifact, save_artifact
from unipot.zoo.compiled_package import save_package

#: hyperparameters of `escn-md`: the small eSCN-MD of two layers and 64 channels
ESCN_MD = {"num_layers": 2, "sphere_channels": 64, "hidden_channels": 64, "edge_channels": 64, "lmax": 2, "mmax": 2}


class UnipotPeer:
    """A unipot potential with one head; `model` is a file of `conf/backbone` or `escn-md`, `hyperparameters` change its
    size; `compiled` as by `trainer.compile=true` and, for dynamics, by `unipot package`."""

    recipe = Recipe(
        learning_rate=0.005,
        batch_size=5,
        energy_weight=1.0,
        force_weight=10.0,
        ema_decay=0.995,
        clip_norm=10.0,
        source="this package: conf/optimizer (Muon 0.005; eSCN-MD AdamW), batch 5, per-atom energy 1 : forces 10 (MSE), EMA 0.995",
    )

    md_path = "UnipotCalculator"

    def __init__(self, settings: dict[str, Any]) -> None:
        self.packages = ("fairchem-core",) if settings["model"] == "escn-md" else ()
        self.cutoff = settings["cutoff"]
        heads = {"measured": settings["overall_force_rms"]}
        self.module = build_potential(settings["model"], settings, heads)
        self.compiled = CompiledPotential(self.module) if settings.get("compiled") else None

    def batch(self, arrays: Arrays) -> AtomBatch:
        n_structures = len(arrays["n_atoms"])
        zeros = torch.zeros(n_structures, dtype=torch.int64)
        return AtomBatch(
            atomic_numbers=torch.from_numpy(arrays["atomic_numbers"]),
            positions=_float32(arrays["positions"]),
            cell=_float32(arrays["cell"]),
            pbc=torch.from_numpy(arrays["pbc"]),
            structure_index=torch.from_numpy(arrays["structure_index"]),
            n_atoms_per_structure=torch.from_numpy(arrays["n_atoms"]),
            head_index=zeros,
            edge_index=torch.from_numpy(arrays["edge_index"]),
            cell_shifts=_float32(arrays["cell_shifts"]),
            total_charge=torch.zeros(n_structures),
            spin_multiplicity=zeros,
            fixed=torch.zeros(len(arrays["atomic_numbers"]), dtype=torch.bool),
            dataset_index=zeros,
            cutoff=self.cutoff,
        )

    def predict(self, batch: AtomBatch, *, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        predicted = (self.compiled or self.module)(batch, ("energy", "forces"), create_graph=training)
        if self.compiled is not None and self.compiled.reason is not None:
            raise RuntimeError(self.compiled.sentence())
        return predicted.energy, predicted.forces

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        return training_optimizer(self.module, learning_rate)

    def calculator(self) -> Any:
        from unipot.calculator import UnipotCalculator

        self.module.eval()
        if self.compiled is None:
            return UnipotCalculator(self.module)
        self.md_path = "UnipotCalculator with a package"
        with TemporaryDirectory() as folder:
            artifact = load_artifact(save_artifact(Path(folder) / "model.safetensors", self.module))
            return UnipotCalculator(save_package(Path(folder) / "model.pt2", artifact, artifact.potential.heads.names[0]), trusted=True)


class UnipotWorker(Worker):
    """Adds the mixture of real datasets: `mixture_build`, `mixture_train`, `mixture_data` and `mixture_fit`."""

    def count(self) -> dict[str, Any]:
        """Work of one training step, unipot's own operators included."""
        unipot_formulas.register()
        return super().count()

    def mixture_build(self, settings: dict[str, Any], stores: list[str], structures_per_step: int, n_batches: int) -> dict[str, Any]:
        """Plan a mixture over stores, collate its first steps and build every backbone in `settings["models"]`."""
        torch.set_num_threads(settings["threads"])
        torch.manual_seed(settings["seed"])
        self._data = mixture_data_module(stores, structures_per_step, settings["cutoff"], settings["seed"])
        self._steps = list(islice(self._data.train_dataloader(), n_batches))
        self._loader = self._endless_steps()
        self._loss = mixture_loss()
        mean_neighbors = sum(b.n_edges for step in self._steps for b in step) / sum(b.n_atoms for step in self._steps for b in step)
        heads = dict.fromkeys((spec.head for spec in self._data.specs), 1.0)
        shared = settings | {"mean_neighbors": mean_neighbors}
        models = {name: build_potential(name, shared, heads) for name in settings["models"]}
        self._models = {name: (model.train(), training_optimizer(model, 1e-9)) for name, model in models.items()}
        parameters = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
        return {"edges_per_atom": mean_neighbors, "parameters": parameters, "shares": self._data.plan.shares()}

    def mixture_train(self, model: str, first: int, steps: int) -> dict[str, Any]:
        """Forward, masked loss, double backward and optimizer step on steps that are collated already."""
        potential, optimizer = self._models[model]
        start, n_atoms = time.perf_counter(), 0
        for k in range(first, first + steps):
            batches = self._steps[k % len(self._steps)]
            counts = self._loss.counts(batches)
            optimizer.zero_grad(set_to_none=True)
            for batch in batches:
                loss, _ = self._loss(potential(batch, self._loss.properties, create_graph=True), batch, counts)
                loss.backward()
                n_atoms += batch.n_atoms
            optimizer.step()
        return {"seconds": time.perf_counter() - start, "atoms": n_atoms, "loss": float(loss.detach())}

    def mixture_data(self, steps: int) -> dict[str, Any]:
        """The data path alone, in this process: plan, read, decode, neighbour lists, collate."""
        start = time.perf_counter()
        batches = [batch for step in islice(self._loader, steps) for batch in step]
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "atoms": sum(b.n_atoms for b in batches), "structures": sum(b.n_structures for b in batches)}

    def mixture_fit(self, **arguments: Any) -> dict[str, Any]:
        """Train on the mixture for a given CPU time and test on held-out structures, see `mixture_race`."""
        from mixture_race import mixture_race

        torch.set_num_threads(1)
        return mixture_race(**arguments)

    def _endless_steps(self) -> Iterator[list[AtomBatch]]:
        while True:
            yield from self._data.train_dataloader()


def build_potential(model: str, settings: dict[str, Any], heads: dict[str, float]) -> Potential:
    """A potential with fresh weights and one head per name, with its scale in eV and every element's reference at zero.

    Sizes of the native backbone are those of `conf/backbone/<model>.yaml`, but for the cutoff that all models share.
    """
    name, chosen, core = _configured(model)
    if chosen.get("average_neighbors", 0) is None:
        chosen["average_neighbors"] = settings["mean_neighbors"]
    chosen |= {"cutoff": settings["cutoff"]} | settings.get("hyperparameters", {}).get(model, {})
    backbone = build_backbone(name, chosen)
    bank = HeadBank()
    for name, scale in heads.items():
        reference = CompositionReference(np.zeros(119), np.ones(119, dtype=bool))
        bank.add(Head(name, level_of_theory="benchmark", n_channels=backbone.n_channels, scale=scale, reference=reference))
    return Potential(backbone, bank, None if core is None else CoreRepulsion(core))


def _configured(model: str) -> tuple[str, dict[str, Any], float | None]:
    """Backbone name, hyperparameters and reach of the core repulsion."""
    if model == "escn-md":
        return model, dict(ESCN_MD), None
    config = yaml.safe_load((conf_dir() / "backbone" / f"{model}.yaml").read_text())
    return config["name"], dict(config["hyperparameters"]), config.get("core_repulsion")


def training_optimizer(potential: Potential, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer that training uses, everything trainable: that of `conf/optimizer` at another rate."""
    kind = "muon" if potential.backbone.name == "native" else "adamw"
    shipped = yaml.safe_load((conf_dir() / "optimizer" / f"{kind}.yaml").read_text())
    shipped |= {"learning_rate": learning_rate, "betas": tuple(shipped["betas"])}
    settings = OptimizerSettings(**{key: value for key, value in shipped.items() if key != "rules"})
    rows = build_policy(potential).apply(potential, weight_decay=settings.weight_decay)
    return build_optimizer(potential, rows, settings)


def mixture_data_module(stores: list[str], structures_per_step: int, cutoff: float, seed: int) -> Any:
    """The data module of training over stores, each with a head of its own; validation sets are left empty."""
    from unipot.data.mixture.datamodule import MixtureDataModule
    from unipot.data.spec import DatasetSpec, MixtureSpec
    from unipot.data.store import Store

    opened = [Store(path) for path in stores]
    specs = [DatasetSpec(name=s.name, path=str(s.path), level_of_theory=s.level_of_theory, labels=s.labels) for s in opened]
    largest_atoms = max(int(s.n_atoms.max()) for s in opened)
    largest_edges = max(int(s.n_edges(cutoff).max()) for s in opened)
    budget = {"max_atoms": max(600, largest_atoms), "max_edges": max(24000, largest_edges)}
    return MixtureDataModule(
        specs=specs,
        stores=opened,
        train_indices=[np.arange(len(s)) for s in opened],
        validation_indices=[np.arange(0) for _ in opened],
        head_index=list(range(len(opened))),
        mixture=MixtureSpec(structures_per_step=structures_per_step, temperature=2.0, seed=seed, **budget),
        cutoff=cutoff,
        n_steps=10_000,
    )


def mixture_loss() -> Any:
    """Energy, force and stress terms as pretraining weighs them."""
    from unipot.training.losses import PropertyTerm, StepLoss

    terms = (
        PropertyTerm(property="energy", kind="huber", weight=1.0),
        PropertyTerm(property="forces", kind="norm", weight=10.0),
        PropertyTerm(property="stress", kind="huber", weight=10.0),
    )
    return StepLoss(terms=terms)


def _float32(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))


if __name__ == "__main__":
    serve(UnipotWorker(UnipotPeer))
