"""The training step, run by the real trainer on data made here."""

import json

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from unipot.training.losses import PropertyTerm, StepLoss
from unipot.training.module import NonFiniteError, TrainingModule
from unipot.training.optim import OptimizerSettings, WarmupCosine, build_policy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated.*"),
]

ENERGY_AND_FORCES = StepLoss(terms=(PropertyTerm(property="energy"), PropertyTerm(property="forces", kind="norm", weight=2.0)))


@pytest.fixture
def train(make_potential, tmp_path):
    """`train(steps, ...)` trains for len(steps) steps on lists of micro-batches; returns the module and the outputs."""

    def run(steps, *, loss=ENERGY_AND_FORCES, policy=None, potential=None, **settings):
        potential = potential or make_potential(heads=("a", "b"))
        outputs = []

        class Record(lightning.pytorch.Callback):
            def on_train_batch_end(self, trainer, pl_module, output, batch, batch_idx):
                outputs.append(output)

        module = TrainingModule(
            potential,
            loss=loss,
            policy=policy(potential) if policy else build_policy(potential),
            optimizer=OptimizerSettings(**{"learning_rate": 1e-2, **settings}),
            schedule=WarmupCosine(max_steps=len(steps)),
            diagnostics=tmp_path / "diagnostics",
        )
        trainer = lightning.pytorch.Trainer(
            accelerator="cpu", max_steps=len(steps), max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[Record()],
        )  # fmt: skip
        trainer.fit(module, DataLoader(steps, batch_size=None, collate_fn=lambda item: item))
        return module, outputs

    return run


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.potential.parameters()])


def test_loss_falls(train, make_batch):
    _, outputs = train([[make_batch()]] * 30)
    assert outputs[-1]["train/loss"] < outputs[0]["train/loss"] - 1.0


def test_weights_do_not_depend_on_the_number_of_micro_batches(train, make_batch):
    whole, _ = train([[make_batch()]] * 3)
    parts, _ = train([[make_batch([0, 3]), make_batch([1]), make_batch([2, 4, 5])]] * 3)
    torch.testing.assert_close(weights(whole), weights(parts), rtol=1e-8, atol=1e-8)


def test_frozen_parameters_stay_bitwise_and_learn_nothing(train, make_batch, make_potential):
    potential = make_potential(heads=("a", "b"))
    before = {name: p.detach().clone() for name, p in potential.named_parameters()}
    train([[make_batch()]] * 3, potential=potential, policy=lambda p: build_policy(p, method="heads-only", heads=["a"]))
    for name, parameter in potential.named_parameters():
        learns = name.startswith("heads.heads.a.")
        assert parameter.requires_grad == learns
        assert torch.equal(parameter, before[name]) != learns, name


def test_learning_rate_follows_the_schedule_and_the_rules(train, make_batch):
    module, outputs = train([[make_batch()]] * 4, policy=lambda p: build_policy(p, method="layerwise", layer_decay=0.5))
    schedule = WarmupCosine(max_steps=4)
    assert [o["learning_rate"] for o in outputs] == [1e-2 * schedule.factor(k) for k in range(4)]
    for group in module.trainer.optimizers[0].param_groups:
        assert group["lr"] == 1e-2 * group["lr_scale"] * schedule.factor(3)


def test_gradient_is_clipped_to_the_norm(train, make_batch, make_potential):
    module, outputs = train([[make_batch()]], clip_norm=1e-3)
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in module.potential.parameters() if p.grad is not None]))
    assert outputs[0]["train/gradient_norm"] > 1e-3
    assert norm.item() == pytest.approx(1e-3, rel=1e-6)


def test_non_finite_label_stops_before_the_update_and_is_named(train, make_batch, make_potential, tmp_path):
    potential = make_potential(heads=("a", "b"))
    before = {name: p.detach().clone() for name, p in potential.named_parameters()}
    broken = make_batch()
    broken.labels["energy"][3] = float("nan")
    with pytest.raises(NonFiniteError, match=r"step 0: loss is nan .* structures with non-finite predictions or labels \(rank 0\): s3;"):
        train([[make_batch([0, 1]), broken]], potential=potential)
    assert all(torch.equal(p, before[name]) for name, p in potential.named_parameters())
    report = json.loads((tmp_path / "diagnostics" / "non_finite_step_0_rank_0.json").read_text())
    assert report["suspects"] == ["s3"] and report["ids"][:2] == ["s0", "s1"]


def test_energy_only_data_trains(train, make_batch):
    _, outputs = train([[make_batch([2, 5])]] * 3)
    assert outputs[0]["train/energy_loss"] > 0 and "train/forces_loss" not in outputs[0]


def test_references_and_scales_are_not_trained(train, make_batch, make_potential):
    potential = make_potential(heads=("a", "b"))
    before = {name: b.clone() for name, b in potential.named_buffers()}
    train([[make_batch()]] * 2, potential=potential)
    assert all(torch.equal(b, before[name]) for name, b in potential.named_buffers())
