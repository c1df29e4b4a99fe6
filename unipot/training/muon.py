"""`HybridMuon`: orthogonalised updates for weight matrices, AdamW for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from unipot.errors import InputError

#: (a, b, c) of each step X <- (a + b XX' + c (XX')²) X, which drives singular values between 0.003 and 1 into 0.7 … 1.2
#: (Jordan et al., Muon, 2024, https://kellerjordan.github.io/posts/muon)
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5
#: root mean square of an update relative to the learning rate, that of AdamW in practice, so that both share one rate
#: (Liu et al., Muon is scalable for LLM training, 2025, https://arxiv.org/abs/2502.16982, section 2.2)
MATCHED_SIZE = 0.2
#: rows orthogonalised together: the work grows with the cube, so that blocks of 64 rows instead of whole matrices take
#: a third off the optimizer's cost for the small model (128 rows) and 15/16 for 256 rows. Force errors after equal
#: steps: ethanol 16.7 instead of 16.3, acetylacetone 18.8 instead of 18.5 meV/Å, within the spread of seeds
LARGEST_BLOCK = 64


class HybridMuon(torch.optim.Optimizer):
    """Orthogonalised momentum steps (Muon, Jordan et al. 2024) for groups with `orthogonal: True`, AdamW for the others.

    For a weight matrix W (n_out, n_in) with gradient g: M <- μ M + (1 − μ) g, U = the orthogonal matrix closest to the
    Nesterov combination μ M + (1 − μ) g, W <- (1 − η λ) W − 0.2 η √max(n_out, n_in) U. U comes from Newton–Schulz
    iterations that run on the Gram matrices of the shorter side, all matrices of one size in one batch: a fraction of
    the work of the usual form where matrices are wide. A pure function of gradients and state: ranks that hold the same
    gradients stay equal.

    Args:
        groups: each with `params`, `weight_decay` and `orthogonal`; those with True hold matrices (n_out, n_in) only.
        learning_rate: of groups that do not say `lr`.
        betas, epsilon: of the AdamW part.
        momentum: μ, 0 to below 1.

    Raises:
        ValueError: a parameter of an orthogonal group is not a matrix.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, learning_rate: float, betas: tuple[float, float], epsilon: float, momentum: float
    ) -> None:
        for group in groups:
            if group["orthogonal"] and (shapes := [tuple(p.shape) for p in group["params"] if p.ndim != 2]):
                raise InputError(f"an orthogonal group holds a parameter of shape {shapes[0]}; only matrices can be orthogonalised")
        defaults = {"lr": learning_rate, "betas": betas, "eps": epsilon, "momentum": momentum, "weight_decay": 0.0}
        super().__init__(list(groups), defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient.

        Args:
            closure: evaluates the loss again; not needed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            if learning:
                (self._orthogonal_step if group["orthogonal"] else self._adam_step)(group, learning)
        return loss

    def _orthogonal_step(self, group: dict[str, Any], matrices: list[Tensor]) -> None:
        gradients = [p.grad for p in matrices]
        for p in matrices:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = orthogonalised(torch._foreach_lerp(gradients, momenta, group["momentum"]))
        if group["weight_decay"]:
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        for matrix, update in zip(matrices, updates, strict=True):
            matrix.add_(update, alpha=-group["lr"] * MATCHED_SIZE * max(matrix.shape) ** 0.5)

    def _adam_step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for p in parameters:
            if not self.state[p]:
                zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p] |= {"step": torch.zeros((), dtype=torch.float32, device=p.device), **zeros}
        states = [self.state[p] for p in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """For each (n_out, n_in) matrix one of the same shape, in blocks of the same singular vectors with singular values near 1.

    A matrix whose shorter side exceeds `LARGEST_BLOCK` is cut along it. Singular values below about 0.003 of the root
    sum of squares of all stay smaller; a zero matrix gives zero.
    """
    blocks = [_blocks(m if m.shape[0] <= m.shape[1] else m.T) for m in matrices]
    flat = [block for of_one in blocks for block in of_one]
    by_size: dict[int, list[int]] = {}
    for k, block in enumerate(flat):
        by_size.setdefault(block.shape[0], []).append(k)
    for members in by_size.values():
        factors = _inverse_roots(torch.stack([flat[k] @ flat[k].T for k in members]))
        for k, factor in zip(members, factors, strict=True):
            flat[k] = factor @ flat[k]
    results, first = [], 0
    for matrix, of_one in zip(matrices, blocks, strict=True):
        wide = torch.cat(flat[first : first + len(of_one)]) if len(of_one) > 1 else flat[first]
        results.append(wide if matrix.shape[0] <= matrix.shape[1] else wide.T)
        first += len(of_one)
    return results


def _blocks(wide: Tensor) -> tuple[Tensor, ...]:
    return wide.tensor_split(math.ceil(wide.shape[0] / LARGEST_BLOCK))


def _inverse_roots(grams: Tensor) -> Tensor:
    """(b, m, m) Gram matrices XXᵀ -> Q with QX orthogonal: the product of the iterations' polynomials, which all commute."""
    size = grams.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp(min=torch.finfo(grams.dtype).tiny)
    gram, product = grams / size, None
    for k, (a, b, c) in enumerate(NEWTON_SCHULZ):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else torch.bmm(polynomial, product)
        if k + 1 < len(NEWTON_SCHULZ):
            gram = torch.bmm(polynomial, torch.bmm(polynomial, gram))
    return product * size.rsqrt()


def matrix_names(module: nn.Module) -> set[str]:
    """Full names of weights that Muon may take: matrices of `nn.Linear` maps with more than one row and column.

    Embedding tables are not linear maps of features, and last layers with one row are vectors; both stay with AdamW.
    """
    linear = {f"{name}.weight": part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    return {name for name, part in linear.items() if min(part.weight.shape) > 1}
