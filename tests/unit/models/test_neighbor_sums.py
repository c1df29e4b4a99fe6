"""The compiled sums over neighbours: against plain sums, against padded slots, in every derivative, and without a compiler."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unipot.batch import AtomBatch, collate
from unipot.models import Backbone, build_backbone
from unipot.models.native import neighbor_sums, neighborhood
from unipot.models.native.geometry import trace_and_traceless
from unipot.models.native.kernel_library import KernelUnavailableError, load_kernel, load_once
from unipot.models.native.neighbor_edges import NeighborEdges
from unipot.models.native.neighbor_slots import NeighborSlots
from unipot.structure import Structure

Arguments = tuple[Tensor, Tensor, Tensor]
Graph = tuple[Tensor, Tensor, tuple[int, int, int]]


pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(neighborhood, "_warned", set())
    load_once.cache_clear()
    yield
    load_once.cache_clear()


def random_graph(n_atoms: int, n_edges: int, seed: int, n_features: int, n_shapes: tuple[int, int, int]) -> tuple[Arguments, Graph]:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randint(0, n_atoms, (n_edges,), generator=generator).sort().values
    neighbor = torch.randint(0, n_atoms, (n_edges,), generator=generator)
    sizes = ((n_edges, sum(n_shapes)), (n_edges, 8), (n_atoms, n_features))
    radial, angular, features = (torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes)
    return (radial, angular, features), (torch.searchsorted(centre, torch.arange(n_atoms + 1)), neighbor, n_shapes)


def plain_moments(radial: Tensor, angular: Tensor, features: Tensor, first_edge: Tensor, neighbor: Tensor, n_shapes) -> list[Tensor]:
    centre = torch.repeat_interleave(first_edge.diff())
    y = (torch.ones_like(angular[:, :1]), angular[:, :3], angular[:, 3:])
    moments = []
    for components, functions in zip(y, radial.split(n_shapes, dim=1), strict=True):
        pairs = torch.einsum("em,ek,ef->emkf", components, functions, features[neighbor])
        moments.append(torch.zeros(len(features), *pairs.shape[1:], dtype=pairs.dtype).index_add(0, centre, pairs))
    return [moments[0].flatten(1, 2), *moments[1:]]


def plain_vector_moments(radial: Tensor, angular: Tensor, features: Tensor, first_edge: Tensor, neighbor: Tensor, n_shapes) -> list[Tensor]:
    (n, _, f), (k0, k1, _) = features.shape, n_shapes
    plain, outer, _ = plain_moments(radial, angular, features.flatten(1), first_edge, neighbor, n_shapes)
    outer = outer.reshape(n, 3, k1, 3, f).transpose(2, 3).reshape(n, 9, k1, f)
    coupled = torch.einsum("pq,nqkf->npkf", trace_and_traceless(outer.dtype), outer)
    return [coupled[:, 0], plain.reshape(n, k0, 3, f).transpose(1, 2), coupled[:, 1:]]


def derivatives(moments, arguments: Arguments, order: int) -> list[Tensor]:
    """The outputs contracted with fixed random numbers and differentiated, `order` times, with respect to everything before."""
    outputs, inputs, found = list(moments), list(arguments), []
    for k in range(order):
        generator = torch.Generator().manual_seed(k)
        cotangents = [torch.randn(out.shape, generator=generator, dtype=out.dtype).requires_grad_() for out in outputs]
        gradients = torch.autograd.grad(outputs, inputs, cotangents, create_graph=True, allow_unused=True, materialize_grads=True)
        found += gradients
        inputs += cotangents
        outputs = [gradient for gradient in gradients if gradient.requires_grad]
    return found


@settings(max_examples=20, deadline=None)
@given(
    n_atoms=st.integers(1, 9),
    n_edges=st.integers(0, 300),
    n_features=st.integers(1, 70),
    n_shapes=st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 5)),
    seed=st.integers(0, 2**31),
)
def test_moments_and_derivatives_equal_plain_sums(n_atoms: int, n_edges: int, n_features: int, n_shapes, seed: int) -> None:
    arguments, graph = random_graph(n_atoms, n_edges, seed, n_features, n_shapes)
    ours, plain = neighbor_sums.neighbor_moments(*arguments, *graph), plain_moments(*arguments, *graph)
    for mine, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, expected.reshape(mine.shape), rtol=1e-10, atol=1e-10)
    for mine, expected in zip(derivatives(ours, arguments, 2), derivatives(plain, arguments, 2), strict=True):
        torch.testing.assert_close(mine, expected.reshape(mine.shape), rtol=1e-10, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(n_atoms=st.integers(1, 5), n_edges=st.integers(0, 90), n_features=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_moments_of_vectors_and_derivatives_equal_plain_sums(n_atoms: int, n_edges: int, n_features: int, seed: int) -> None:
    arguments, graph = random_graph(n_atoms, n_edges, seed, 3 * n_features, (3, 2, 0))
    arguments = (*arguments[:2], arguments[2].detach().reshape(n_atoms, 3, n_features).requires_grad_())
    ours, plain = neighbor_sums.neighbor_moments(*arguments, *graph), plain_vector_moments(*arguments, *graph)
    for mine, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)
    for mine, expected in zip(derivatives(ours, arguments, 2), derivatives(plain, arguments, 2), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("vectors", [False, True])
def test_third_and_fourth_derivatives_equal_those_of_plain_sums(vectors: bool) -> None:
    arguments, graph = random_graph(5, 23, 0, 6, (2, 3, 0 if vectors else 1))
    if vectors:
        arguments = (*arguments[:2], arguments[2].detach().reshape(5, 3, 2).requires_grad_())
    ours = derivatives(neighbor_sums.neighbor_moments(*arguments, *graph), arguments, 4)
    plain = derivatives((plain_vector_moments if vectors else plain_moments)(*arguments, *graph), arguments, 4)
    for mine, expected in zip(ours, plain, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-8)


def test_operators_are_registered_soundly() -> None:
    arguments, graph = random_graph(3, 7, 0, 2, (1, 2, 1))
    moments = neighbor_sums.neighbor_moments(*arguments, *graph)
    cotangents = [torch.randn_like(moment, requires_grad=True) for moment in moments]
    along = [torch.randn_like(argument, requires_grad=True) for argument in arguments]
    torch.library.opcheck(torch.ops.unipot.neighbor_moments.default, (*arguments, *graph))
    torch.library.opcheck(torch.ops.unipot.neighbor_gradients.default, (*arguments, *cotangents, *graph))
    torch.library.opcheck(torch.ops.unipot.neighbor_changes.default, (*arguments, *cotangents, *along, *graph))


def test_second_derivatives_pass_gradgradcheck() -> None:
    arguments, graph = random_graph(3, 6, 1, 2, (1, 2, 1))
    assert torch.autograd.gradgradcheck(lambda *a: neighbor_sums.neighbor_moments(*a, *graph), arguments)


def test_results_have_the_same_bits_for_any_number_of_threads() -> None:
    arguments, graph = random_graph(50, 900, 2, 40, (8, 8, 4))
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(derivatives(neighbor_sums.neighbor_moments(*arguments, *graph), arguments, 2))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))


def test_strides_of_the_arguments_do_not_matter() -> None:
    arguments, graph = random_graph(4, 20, 3, 6, (2, 2, 1))
    strided = tuple(argument.detach().T.contiguous().T for argument in arguments)
    assert not any(argument.is_contiguous() for argument in strided)
    for a, b in zip(neighbor_sums.neighbor_moments(*strided, *graph), neighbor_sums.neighbor_moments(*arguments, *graph), strict=True):
        assert torch.equal(a, b)


def test_mixed_dtypes_are_refused() -> None:
    (radial, angular, features), graph = random_graph(4, 20, 3, 6, (2, 2, 1))
    with pytest.raises(TypeError, match="need one dtype"):
        neighbor_sums.neighbor_moments(radial.float(), angular, features, *graph)


def cluster(n_atoms: int, spread: float, seed: int) -> Structure:
    rng = np.random.default_rng(seed)
    return Structure(atomic_numbers=rng.integers(1, 30, n_atoms), positions=rng.uniform(0, spread, (n_atoms, 3)), id=str(seed))


def crystal(n_atoms: int, length: float, seed: int) -> Structure:
    """Cells shorter than the cutoff: atoms are neighbours of their own images."""
    rng = np.random.default_rng(seed)
    cell = length * (np.eye(3) + 0.1 * rng.normal(size=(3, 3)))
    positions = rng.uniform(size=(n_atoms, 3)) @ cell
    return Structure(atomic_numbers=rng.integers(1, 30, n_atoms), positions=positions, cell=cell, pbc=True, id=f"crystal-{seed}")


BATCHES = {
    "one atom": [cluster(1, 1.0, 0)],
    "pairs and isolated atoms": [cluster(2, 2.0, 1), cluster(1, 1.0, 2), cluster(3, 30.0, 3)],
    "clusters": [cluster(12, 5.0, 4), cluster(30, 6.0, 5)],
    "crystals": [crystal(1, 3.0, 6), crystal(5, 5.0, 7)],
    "mixed": [crystal(2, 4.0, 8), cluster(1, 1.0, 9), cluster(9, 4.0, 10)],
}


def force_loss(backbone: Backbone, batch: AtomBatch) -> list[Tensor]:
    """Features, gradient with respect to positions, and gradients of the square of that with respect to the weights."""
    positions = batch.positions.clone().requires_grad_()
    features = backbone(AtomBatch(**{**vars(batch), "positions": positions}))
    weights = torch.linspace(-1, 1, features.scalars.shape[1], dtype=positions.dtype)
    energy = (features.scalars * weights).sum() + features.vectors.square().sum()
    (forces,) = torch.autograd.grad(energy, positions, create_graph=True, materialize_grads=True)
    parameters = [*backbone.parameters()]
    gradients = torch.autograd.grad(forces.square().sum() + energy, parameters, allow_unused=True, materialize_grads=True)
    return [tensor.detach() for tensor in (features.scalars, features.vectors, forces, *gradients)]


@pytest.mark.parametrize("name", BATCHES)
def test_kernel_and_slots_agree_in_training_through_forces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 24, "n_vector_channels": 6, "n_layers": 3, "cutoff": 4.0}).double()
    batch = collate(BATCHES[name], cutoff=4.0, dtype=torch.float64)
    found = {}
    for choice in ("kernel", "slots"):
        monkeypatch.setenv("UNIPOT_NEIGHBOR_SUMS", choice)
        found[choice] = force_loss(backbone, batch)
    largest = max(float(tensor.abs().max()) for tensor in found["slots"])
    assert largest > 0 or name == "one atom"
    for mine, expected in zip(found["kernel"], found["slots"], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()) + 1e-13)


def small_batch(dtype: torch.dtype = torch.float32) -> AtomBatch:
    return collate([cluster(3, 2.0, 0)], cutoff=3.0, dtype=dtype)


def test_kernel_is_the_choice_on_a_cpu_with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIPOT_NEIGHBOR_SUMS", raising=False)
    assert isinstance(neighborhood.neighborhood(small_batch(), 3.0), NeighborEdges)


def test_without_a_compiler_slots_are_used_and_one_warning_says_what_to_install(no_compiler: None) -> None:
    with pytest.warns(UserWarning, match="the compiler that CC names, 'no-such-compiler', was not found"):
        assert isinstance(neighborhood.neighborhood(small_batch(), 3.0), NeighborSlots)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neighborhood.neighborhood(small_batch(), 3.0)


def test_slots_on_request_need_no_compiler_and_do_not_warn(no_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIPOT_NEIGHBOR_SUMS", "slots")
    assert isinstance(neighborhood.neighborhood(small_batch(), 3.0), NeighborSlots)


def test_other_dtypes_use_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIPOT_NEIGHBOR_SUMS", raising=False)
    assert isinstance(neighborhood.neighborhood(small_batch(torch.bfloat16), 3.0), NeighborSlots)


def test_a_kernel_that_is_asked_for_and_not_there_is_an_error(no_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIPOT_NEIGHBOR_SUMS", "kernel")
    with pytest.raises(ValueError, match="UNIPOT_NEIGHBOR_SUMS=kernel, but the compiler that CC names"):
        neighborhood.neighborhood(small_batch(), 3.0)


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIPOT_NEIGHBOR_SUMS", "cuda")
    with pytest.raises(ValueError, match="use one of: auto, kernel, slots"):
        neighborhood.neighborhood(small_batch(), 3.0)


def test_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIPOT_KERNELS", str(tmp_path / "kernels"))
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    assert load_kernel(source).answer() == 42
    (library,) = (tmp_path / "kernels").glob("*.so")
    written = library.stat().st_mtime_ns
    assert load_kernel(source).answer() == 42
    assert library.stat().st_mtime_ns == written
    source.write_text("int answer(void) { return 43; }\n")
    assert load_kernel(source).answer() == 43


def test_message_of_the_compiler_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIPOT_KERNELS", str(tmp_path / "kernels"))
    source = tmp_path / "broken.c"
    source.write_text("int answer(void) { return unknown; }\n")
    with pytest.raises(KernelUnavailableError, match="unknown"):
        load_kernel(source)
    assert not list((tmp_path / "kernels").glob("*.so"))
