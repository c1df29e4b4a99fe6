"""The pull towards the start: its size, what it leaves alone, and the run state."""

import pytest
import torch
from torch import nn

from unipot.finetune.lora import LoraSettings, inject_lora, merged
from unipot.training.optim import ParameterRow, build_policy, group_table
from unipot.training.starting_point import StartingPoint


def row(name, to_start, lr_scale=1.0):
    return ParameterRow(parameter=name, n_numbers=1, rule="rule", lr_scale=lr_scale, weight_decay=0.0, to_start=to_start)


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


def test_pull_is_rate_times_strength_times_distance(linear):
    point = StartingPoint(linear, [row("weight", 2.0, lr_scale=0.5), row("bias", 0.0)], learning_rate=0.1)
    start = linear.weight.detach().clone()
    with torch.no_grad():
        linear.weight += 1.0
        linear.bias += 1.0
    bias = linear.bias.detach().clone()
    point.pull(0.1)
    expected = torch.full((2, 3), 1 - 0.1 * 2.0 * 0.5, dtype=torch.float64)
    torch.testing.assert_close(linear.weight.detach() - start, expected, rtol=0, atol=1e-15)
    assert torch.equal(linear.bias, bias)


def test_weights_at_their_start_stay_bitwise(linear):
    point = StartingPoint(linear, [row("weight", 3.0)], learning_rate=0.1)
    before = linear.weight.detach().clone()
    point.pull(0.1)
    assert torch.equal(linear.weight, before)


def test_overshooting_pull_is_refused(linear):
    with pytest.raises(ValueError, match="their product is above 1.*give at most 10"):
        StartingPoint(linear, [row("weight", 11.0)], learning_rate=0.1)


def test_start_is_that_of_the_run_state(linear):
    first = StartingPoint(linear, [row("weight", 1.0)], learning_rate=0.1)
    start = linear.weight.detach().clone()
    with torch.no_grad():
        linear.weight += 1.0
    resumed = StartingPoint(linear, [row("weight", 1.0)], learning_rate=0.1)
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(resumed.start["weight"], start)
    with pytest.raises(ValueError, match="lacks or adds 'weight'"):
        StartingPoint(linear, [], learning_rate=0.1).load_state_dict(first.state_dict())


def test_pull_takes_the_place_of_weight_decay_in_the_backbone(make_potential):
    potential = make_potential(heads=("a", "b"))
    rows = build_policy(potential, heads=["a"], l2_to_start=0.5).resolve(potential, weight_decay=0.1)
    body = [r for r in rows if r.parameter.startswith("backbone.")]
    assert all((r.to_start, r.weight_decay) == (0.5, 0.0) for r in body)
    assert any(r.weight_decay == 0.1 for r in rows if r.parameter.startswith("heads.heads.a."))
    assert all(r.to_start == 0 for r in rows if r.parameter.startswith("heads."))
    assert ("radial", "0.5 to start") in {(name, decay) for name, _, _, decay in group_table(rows)}


def test_pull_of_the_heads_is_another_switch(make_potential):
    potential = make_potential(heads=("a", "b"))
    rows = build_policy(potential, heads=["a"], l2_to_start=0.5, l2_to_start_heads=True).resolve(potential, weight_decay=0.1)
    assert {r.to_start for r in rows if r.parameter.startswith("heads.heads.a.")} == {0.5}
    assert {r.to_start for r in rows if r.parameter.startswith("heads.heads.b.")} == {0.0}


def test_pull_of_a_low_rank_model_shrinks_its_update_by_the_stated_factor(make_potential):
    potential = make_potential(heads=("a", "b"))
    parent = {name: p.detach().clone() for name, p in potential.named_parameters()}
    inject_lora(potential, LoraSettings(rank=2, alpha=2.0), seed=0)
    rows = build_policy(potential, method="lora", heads=["a"], l2_to_start=2.0).apply(potential, weight_decay=0.1)
    point = StartingPoint(potential, rows, learning_rate=0.1)
    with torch.no_grad():
        for name, parameter in potential.named_parameters():
            if name.endswith((".up", ".down")):
                parameter += torch.randn_like(parameter)
    before = dict(merged(potential).named_parameters())
    point.pull(0.1)
    for name, parameter in merged(potential).named_parameters():
        expected = parent[name] + (1 - 0.1 * 2.0) * (before[name] - parent[name])
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-14)
