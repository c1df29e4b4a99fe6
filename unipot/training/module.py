"""`TrainingModule`: one optimizer step from the micro-batches of a rank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from unipot.batch import AtomBatch
from unipot.errors import InputError
from unipot.models.compiled import CompiledPotential
from unipot.models.last_layer import drop_posteriors_of_learners
from unipot.models.potential import Potential
from unipot.training.checkpoint import random_state, restore_random_state
from unipot.training.distributed import sum_gradients, sum_over_ranks
from unipot.training.ema import WeightAverage
from unipot.training.losses import StepLoss
from unipot.training.optim import OptimizerSettings, ParameterPolicy, ParameterRow, WarmupCosine, build_optimizer
from unipot.training.starting_point import StartingPoint


class NonFiniteError(InputError):
    """A loss or gradient was not finite; the weights are those before the step."""


class TrainingModule(LightningModule):
    """Trains a potential on lists of micro-batches, with sums over the step divided by counts over all ranks.

    Args:
        potential: trained in place.
        loss: terms.
        policy: which parameter learns how.
        optimizer: rates, clipping, weight average.
        schedule: learning-rate factor by step.
        diagnostics: folder for the report on a non-finite step.
        compiled: predict through one compiled graph, see `CompiledPotential`.

    Attributes:
        compiled: the compiled form of the potential that steps use, or None; no part of the state.
        parameter_rows: the table made from the policy.
        dropped_posteriors: heads whose error bars belong to weights that now learn; they are gone.
        average: averaged weights, used for validation and artifacts.
        starting_point: where the weights are pulled to, if the policy says so.
    """

    def __init__(
        self,
        potential: Potential,
        *,
        loss: StepLoss,
        policy: ParameterPolicy,
        optimizer: OptimizerSettings,
        schedule: WarmupCosine,
        diagnostics: Path | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.potential = potential.train()  # a loaded artifact is in evaluation mode, where forces carry no graph
        self.compiled = CompiledPotential(potential) if compiled else None
        self.loss = loss
        self.settings = optimizer
        self.schedule = schedule
        self.diagnostics = diagnostics
        self.parameter_rows: list[ParameterRow] = policy.apply(potential, weight_decay=optimizer.weight_decay)
        self.dropped_posteriors = drop_posteriors_of_learners(potential)
        self.average = WeightAverage(potential, optimizer.ema_decay)
        self.starting_point = StartingPoint(potential, self.parameter_rows, learning_rate=optimizer.learning_rate)
        self.learnt = [parameter for parameter in potential.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.potential, self.parameter_rows, self.settings)

    def on_fit_start(self) -> None:
        self.average.to(self.device)

    def training_step(self, micro_batches: list[AtomBatch], batch_idx: int) -> dict[str, Any]:
        """One optimizer step; returns the numbers of the step for callbacks."""
        step = self.trainer.global_step
        optimizer = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        counts = sum_over_ranks(self.loss.counts(micro_batches, self.device))
        numbers = torch.zeros(1 + len(self.loss.terms), dtype=torch.float64, device=self.device)
        predict = self.compiled or self.potential
        for batch in micro_batches:
            predictions = predict(batch, properties=("energy", *self.loss.properties))
            loss, shares = self.loss(predictions, batch, counts)
            self.manual_backward(loss)
            numbers += torch.cat([loss.detach().reshape(1), shares])
        sum_gradients(self.learnt)
        sum_over_ranks(numbers)
        norm = self._gradient_norm()
        if not (bool(torch.isfinite(norm)) and bool(torch.isfinite(numbers).all())):
            self._refuse_step(step, micro_batches, numbers[0].item(), norm.item())
        self._clip(norm)
        factor = self.schedule.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * group["lr_scale"] * factor
        self.starting_point.pull(self.settings.learning_rate * factor)
        optimizer.step()
        self.average.update()
        return self._numbers(numbers, counts, norm, factor, micro_batches)

    def _gradient_norm(self) -> Tensor:
        """Global L2 norm, float64."""
        norms = [torch.linalg.vector_norm(p.grad).double() for p in self.learnt if p.grad is not None]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), dtype=torch.float64)

    def _clip(self, norm: Tensor) -> None:
        if self.settings.clip_norm is None or norm.item() <= self.settings.clip_norm:
            return
        factor = self.settings.clip_norm / norm.item()
        for parameter in self.learnt:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def _numbers(
        self, numbers: Tensor, counts: Tensor, norm: Tensor, factor: float, micro_batches: Sequence[AtomBatch]
    ) -> dict[str, Any]:
        loss, *shares = numbers.tolist()
        names = [term.property for term in self.loss.terms]
        return {
            "train/loss": loss,
            **{f"train/{name}_loss": share for name, share, n in zip(names, shares, counts.tolist(), strict=True) if n},
            "train/gradient_norm": norm.item(),
            "learning_rate": self.settings.learning_rate * factor,
            "n_atoms": sum(batch.n_atoms for batch in micro_batches),
        }

    def _refuse_step(self, step: int, micro_batches: Sequence[AtomBatch], loss: float, norm: float) -> None:
        """Name the structures behind a non-finite step and stop before the update."""
        suspects = [name for batch in micro_batches for name in self._suspects(batch)]
        everything = [name for batch in micro_batches for name in batch.ids]
        if self.diagnostics is not None:
            self.diagnostics.mkdir(parents=True, exist_ok=True)
            report = {"step": step, "loss": str(loss), "gradient_norm": str(norm), "suspects": suspects, "ids": everything}
            file = self.diagnostics / f"non_finite_step_{step}_rank_{self.global_rank}.json"
            file.write_text(json.dumps(report, indent=1) + "\n")
        listed = suspects or everything
        kind = "structures with non-finite predictions or labels" if suspects else "structures of the step"
        raise NonFiniteError(
            f"step {step}: loss is {loss:g} and the gradient norm {norm:g}, so the update was not made; {kind} (rank {self.global_rank}): "
            f"{', '.join(listed[:10])}{' …' if len(listed) > 10 else ''}; lower optimizer.learning_rate, or check their labels"
        )

    def _suspects(self, batch: AtomBatch) -> list[str]:
        predictions = self.potential(batch, properties=("energy", *self.loss.properties), create_graph=False)
        bad = ~torch.isfinite(predictions.energy.detach())
        for name in ("energy", "forces", "stress"):
            values = batch.labels.get(name)
            for tensor in (getattr(predictions, name), values):
                if tensor is not None:
                    rows = (~torch.isfinite(tensor.detach().reshape(tensor.shape[0], -1))).any(dim=1)
                    bad = bad | (batch.sum_over_atoms(rows.long()) > 0 if name == "forces" else rows)
        return [batch.ids[i] for i in torch.nonzero(bad).flatten().tolist()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["weight_average"] = self.average.state_dict()
        checkpoint["random_state"] = random_state()
        if self.starting_point.start:
            checkpoint["starting_point"] = self.starting_point.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.average.load_state_dict(checkpoint["weight_average"])
        self.starting_point.load_state_dict(checkpoint.get("starting_point", {}))
        restore_random_state(checkpoint["random_state"])
