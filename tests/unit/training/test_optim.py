import pytest
import torch

from unipot.training.optim import (
    OptimizerSettings,
    ParameterPolicy,
    ParameterRule,
    WarmupCosine,
    build_optimizer,
    build_policy,
    group_table,
)


@pytest.fixture
def potential(make_potential):
    return make_potential(heads=("a", "b"), n_layers=2)


def rule(name, *patterns, **options):
    return ParameterRule(name=name, patterns=patterns, **options)


def test_first_matching_rule_governs(potential):
    policy = ParameterPolicy(rules=(rule("heads", "heads.*", lr_scale=0.5), rule("rest", "*")))
    rows = policy.resolve(potential, weight_decay=0.1)
    assert len(rows) == len(list(potential.parameters()))
    assert {row.rule for row in rows if row.parameter.startswith("heads.")} == {"heads"}
    assert {row.rule for row in rows if not row.parameter.startswith("heads.")} == {"rest"}


def test_parameter_without_a_rule_is_refused(potential):
    with pytest.raises(ValueError, match="parameter 'backbone.* matches no rule"):
        ParameterPolicy(rules=(rule("heads", "heads.*"),)).resolve(potential, weight_decay=0.0)


def test_rule_without_a_parameter_is_refused(potential):
    with pytest.raises(ValueError, match="parameter rule 'typo' .* governs no parameter"):
        ParameterPolicy(rules=(rule("typo", "backbon.*"), rule("rest", "*"))).resolve(potential, weight_decay=0.0)


def test_rule_behind_a_catch_all_is_refused(potential):
    with pytest.raises(ValueError, match="'late' .* an earlier rule took all"):
        ParameterPolicy(rules=(rule("all", "*"), rule("late", "heads.*"))).resolve(potential, weight_decay=0.0)


def test_all_frozen_is_refused(potential):
    with pytest.raises(ValueError, match="nothing to train"):
        ParameterPolicy(rules=(rule("all", "*", lr_scale=0.0),)).apply(potential, weight_decay=0.0)


def test_heads_only_freezes_the_backbone(potential):
    build_policy(potential, method="heads-only").apply(potential, weight_decay=0.0)
    assert not any(p.requires_grad for p in potential.backbone.parameters())
    assert all(p.requires_grad for p in potential.heads.parameters())


def test_one_head_learns_and_the_other_is_frozen(potential):
    build_policy(potential, heads=["b"]).apply(potential, weight_decay=0.0)
    assert all(p.requires_grad for p in potential.heads["b"].parameters())
    assert not any(p.requires_grad for p in potential.heads["a"].parameters())


def test_order_of_the_heads_that_learn_does_not_matter(potential):
    names = tuple(reversed(potential.heads.names))
    rows = build_policy(potential, heads=names).resolve(potential, weight_decay=0.0)
    assert not any(row.frozen for row in rows)


def test_freeze_takes_the_first_groups(potential):
    groups = potential.backbone.layer_groups()
    rows = build_policy(potential, method="freeze", freeze_groups=len(groups) - 1).resolve(potential, weight_decay=0.0)
    frozen = {row.rule for row in rows if row.frozen}
    assert frozen == {name for name, _ in groups[:-1]}


def test_layer_wise_rates_rise_towards_the_output(potential):
    rows = build_policy(potential, method="layerwise", layer_decay=0.5).resolve(potential, weight_decay=0.0)
    scales = {name: scale for name, _, scale, _ in group_table(rows)}
    depth = [scales[name] for name, _ in potential.backbone.layer_groups()]
    assert depth == [0.5 ** (len(depth) - k) for k in range(len(depth))]
    assert scales["heads"] == 1.0


def test_unknown_head_is_named(potential):
    with pytest.raises(ValueError, match="head 'c' is not in the model; available are: a, b"):
        build_policy(potential, heads=["c"])


def test_unknown_method_is_named(potential):
    with pytest.raises(ValueError, match="method 'loar' is not known"):
        build_policy(potential, method="loar")


def test_embeddings_and_biases_have_no_weight_decay(potential):
    rows = build_policy(potential).resolve(potential, weight_decay=0.1)
    exempt = {row.parameter for row in rows if row.weight_decay == 0.0}
    assert {f"backbone.{name}" for name in potential.backbone.no_decay_names()} <= exempt
    assert any(row.weight_decay == 0.1 for row in rows)


def test_optimizer_has_every_learning_parameter_once(potential):
    rows = build_policy(potential, method="layerwise").apply(potential, weight_decay=0.1)
    groups = build_optimizer(potential, rows, OptimizerSettings(learning_rate=1e-3)).param_groups
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in potential.parameters() if p.requires_grad)


def test_schedule_warms_up_then_falls_to_the_final_fraction():
    schedule = WarmupCosine(max_steps=100, warmup_steps=10, final_fraction=0.1)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == 1.0
    assert factors[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(factors[10:], factors[11:], strict=False))


@pytest.mark.parametrize("options", [{"max_steps": 0}, {"max_steps": 5, "warmup_steps": 5}, {"max_steps": 5, "final_fraction": 2.0}])
def test_impossible_schedule_is_refused(options):
    with pytest.raises(ValueError, match="schedule"):
        WarmupCosine(**options)


@pytest.mark.parametrize(
    "options", [{"learning_rate": 0.0}, {"clip_norm": 0.0}, {"ema_decay": 1.0}, {"betas": (0.9, 1.0)}, {"weight_decay": -1.0}]
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match="optimizer"):
        OptimizerSettings(**{"learning_rate": 1e-3, **options})


def test_names_with_a_common_beginning_are_kept_apart():
    module = torch.nn.ModuleDict({"1": torch.nn.Linear(1, 1), "10": torch.nn.Linear(1, 1)})
    rows = ParameterPolicy(rules=(rule("one", "1.*"), rule("ten", "10.*"))).resolve(module, weight_decay=0.0)
    assert [row.rule for row in rows] == ["one", "one", "ten", "ten"]
