"""Our operators called directly and through torch's dispatcher: the same numbers, and seen by whatever watches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unipot.models.native import moment_invariants

pytestmark = pytest.mark.usefixtures("kernels")


class Watcher(TorchDispatchMode):
    """Notes our operators that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        if function.namespace == "unipot":
            self.names.append(function.__name__.removesuffix(".default"))
        return function(*arguments, **(options or {}))


def moments() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).requires_grad_() for size in ((4, 6), (4, 3, 2), (4, 5, 2))]


def derivatives(arguments: list[Tensor]) -> list[Tensor]:
    products = moment_invariants.moment_invariants(*arguments, compiled=True)
    first = torch.autograd.grad([p.square().sum() for p in products], arguments, create_graph=True)
    return [*products, *first, *torch.autograd.grad(sum(f.square().sum() for f in first), arguments)]


def test_a_mode_sees_every_operator_and_numbers_stay() -> None:
    direct = derivatives(moments())
    with Watcher() as watcher:
        watched = derivatives(moments())
    assert all(torch.equal(one, other) for one, other in zip(direct, watched, strict=True))
    assert {"moment_invariants", "moment_invariant_gradients", "moment_invariant_changes"} == set(watcher.names)


def test_nothing_passes_the_dispatcher_unwatched(monkeypatch) -> None:
    monkeypatch.setattr(torch._ops.OpOverloadPacket, "__call__", lambda *_, **__: pytest.fail("the dispatcher was asked"))
    assert len(derivatives(moments())) == 8


def test_torch_compile_takes_a_function_with_operators_as_one_graph() -> None:
    arguments = [moment.detach() for moment in moments()]
    compiled = torch.compile(lambda *tensors: moment_invariants.moment_invariants(*tensors, compiled=True), backend="eager", fullgraph=True)
    expected = moment_invariants.moment_invariants(*arguments, compiled=True)
    assert all(torch.equal(one, other) for one, other in zip(compiled(*arguments), expected, strict=True))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch: a loop over the batch
@pytest.mark.parametrize("transform", ["batched cotangents", "vmap"])
def test_rows_of_a_hessian_come_in_one_batch(transform: str) -> None:
    arguments = moments()
    products = moment_invariants.moment_invariants(*arguments, compiled=True)
    (gradient,) = torch.autograd.grad(products[0].square().sum(), arguments[1], create_graph=True)
    cotangents = torch.eye(gradient.numel()).reshape(-1, *gradient.shape)
    one = lambda cotangent: torch.autograd.grad(gradient, arguments[1], cotangent, retain_graph=True)[0]  # noqa: E731
    if transform == "vmap":
        rows = torch.vmap(one)(cotangents)
    else:
        (rows,) = torch.autograd.grad(gradient, arguments[1], cotangents, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(rows, torch.stack([one(cotangent) for cotangent in cotangents]))
