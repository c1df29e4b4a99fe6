import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.training.muon import HybridMuon, matrix_names, orthogonalised
from unipot.training.optim import OptimizerSettings, build_optimizer, build_policy


def hybrid(groups, **options):
    return HybridMuon(groups, **({"learning_rate": 0.1, "betas": (0.9, 0.99), "epsilon": 1e-8, "momentum": 0.95} | options))


def matrix(n_out, n_in, seed=0):
    return torch.randn(n_out, n_in, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(n_out=st.integers(2, 12), n_in=st.integers(2, 12), seed=st.integers(0, 1000))
def test_orthogonalised_keeps_singular_vectors_and_levels_values(n_out, n_in, seed):
    # singular values of 1, 1/2, 1/4, … 1/64 at most, within what five iterations lift
    u, _, vh = torch.linalg.svd(matrix(n_out, n_in, seed), full_matrices=False)
    values = 0.5 ** torch.arange(min(n_out, n_in)).clamp(max=6)
    (result,) = orthogonalised([u @ torch.diag(values.double()) @ vh])
    inner = u.T @ result @ vh.T
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-9
    assert 0.6 < inner.diagonal().min() and inner.diagonal().max() < 1.3


def test_orthogonalised_in_a_batch_equals_one_by_one():
    several = [matrix(4, 6, 0), matrix(6, 4, 1), matrix(4, 4, 2), matrix(3, 9, 3)]
    for alone, together in zip([orthogonalised([m])[0] for m in several], orthogonalised(several), strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-14)


def test_large_matrices_are_orthogonalised_in_blocks():
    tall = matrix(300, 130)
    (result,) = orthogonalised([tall])
    blocks = [orthogonalised([part])[0] for part in tall.tensor_split(3, dim=1)]
    torch.testing.assert_close(result, torch.cat(blocks, dim=1), rtol=1e-12, atol=1e-14)


def test_zero_gradient_gives_a_zero_update():
    weight = torch.nn.Parameter(matrix(3, 5))
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    hybrid([{"params": [weight], "orthogonal": True}]).step()
    assert torch.equal(weight, before)


def test_size_of_an_update_matches_the_rate():
    weight = torch.nn.Parameter(torch.zeros(16, 64, dtype=torch.float64))
    weight.grad = matrix(16, 64)
    hybrid([{"params": [weight], "orthogonal": True}], learning_rate=0.01).step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.2)


def test_other_groups_take_the_steps_of_adamw():
    ours, theirs = (torch.nn.Parameter(matrix(3, 5)) for _ in range(2))
    a = hybrid([{"params": [ours], "orthogonal": False, "weight_decay": 0.1}])
    b = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, fused=True)
    for k in range(3):
        ours.grad = theirs.grad = matrix(3, 5, seed=k + 1)
        a.step()
        b.step()
    assert torch.equal(ours, theirs)


def test_state_continues_bitwise():
    def run(n_steps, parts=None, state=None):
        weights = parts or [torch.nn.Parameter(matrix(3, 5)), torch.nn.Parameter(matrix(1, 4))]
        optimizer = hybrid([{"params": weights[:1], "orthogonal": True}, {"params": weights[1:], "orthogonal": False}])
        if state is not None:
            optimizer.load_state_dict(state)
        first = 0 if state is None else 2
        for k in range(first, n_steps):
            for w in weights:
                w.grad = matrix(*w.shape, seed=10 + k)
            optimizer.step()
        return weights, optimizer.state_dict()

    whole, _ = run(4)
    half, state = run(2)
    resumed, _ = run(4, half, state)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_matrices_are_linear_maps_and_not_embeddings_or_last_layers(make_potential):
    names = matrix_names(make_potential(heads=("a",), n_layers=2))
    assert "backbone.layers.0.mix_scalar.weight" in names
    assert not any("embedding" in name or name.endswith("readout.output.weight") for name in names)


def test_low_rank_updates_stay_with_adamw(make_potential):
    from unipot.finetune.lora import LoraSettings, inject_lora

    potential = make_potential(heads=("a",), n_layers=2)
    inject_lora(potential, LoraSettings(rank=2, alpha=2.0), seed=0)
    rows = build_policy(potential, method="lora").apply(potential, weight_decay=0.0)
    optimizer = build_optimizer(potential, rows, OptimizerSettings(learning_rate=1e-3, kind="muon"))
    orthogonal = {id(p) for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]}
    low_rank = [p for name, p in potential.named_parameters() if name.endswith((".up", ".down"))]
    assert low_rank and not any(id(p) in orthogonal for p in low_rank)


def test_vector_in_an_orthogonal_group_is_refused():
    with pytest.raises(ValueError, match=r"shape \(4,\); only matrices"):
        hybrid([{"params": [torch.nn.Parameter(torch.zeros(4))], "orthogonal": True}])


@pytest.mark.parametrize(
    ("options", "words"), [({"kind": "sgd"}, "'sgd'; use one of: adamw, muon"), ({"momentum": 1.0}, "momentum is 1.0")]
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        OptimizerSettings(learning_rate=1e-3, **options)
