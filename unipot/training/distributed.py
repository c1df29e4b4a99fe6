"""Several processes: every rank holds the whole model, and gradients are summed once per step.

No DistributedDataParallel: a rank's micro-batches may leave whole heads without a gradient, and several backward
passes make up one step. One flat sum after the last of them has neither problem, and since losses are divided by
global counts, the sum over ranks *is* the gradient of the step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from unipot.errors import InputError

#: strategies by their name in `trainer.strategy`
STRATEGIES = ("auto", "ddp")


class ReplicatedStrategy(DDPStrategy):
    """Lightning's launcher and process group, without its wrapper; weights start from those of rank 0."""

    def configure_ddp(self) -> None:
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            dist.broadcast(tensor, src=0)


def check_strategy(strategy: str) -> None:
    """Refuse strategies that are not exact for conservative forces.

    Raises:
        ValueError: the strategy is not one of `STRATEGIES`.
    """
    if "fsdp" in strategy.lower() or "deepspeed" in strategy.lower():
        raise InputError(
            f"trainer.strategy is {strategy!r}: sharded parameters break the second derivatives that training on forces needs "
            "(pytorch issue 172543); use ddp"
        )
    if strategy not in STRATEGIES:
        raise InputError(f"trainer.strategy is {strategy!r}; use one of: {', '.join(STRATEGIES)}")


def is_main_process() -> bool:
    """Whether this process is rank 0, before or after the process group exists."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    # without it every launcher names its own part; SLURM_PROCID is also that of a shell inside a job, in which Lightning starts the ranks
    return all(os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def speaks_for_its_node() -> bool:
    """Whether this process is the first one on its machine, whose exit code is looked at; others are its children or beside it."""
    return all(os.environ.get(name, "0") == "0" for name in ("SLURM_LOCALID", "LOCAL_RANK"))


def is_distributed() -> bool:
    """Whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """`values`, summed in place over all processes."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def largest_over_ranks(value: int, device: torch.device) -> int:
    """The largest `value` of all processes."""
    if not is_distributed():
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest.item())


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over all processes in one call per dtype.

    A missing gradient becomes zero, on one process too: the optimizer would skip such a parameter altogether, weight
    decay included, and one and two processes would differ.
    """
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        by_dtype.setdefault(parameter.dtype, []).append(parameter)
    if not is_distributed():
        return
    for members in by_dtype.values():
        flat = torch.cat([p.grad.reshape(-1) for p in members])
        dist.all_reduce(flat)
        for parameter, part in zip(members, flat.split([p.numel() for p in members]), strict=True):
            parameter.grad = part.view_as(parameter).clone()
