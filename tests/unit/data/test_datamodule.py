"""The data module: what a step holds, exact resume with and without workers, deterministic evaluation."""

from __future__ import annotations

import pickle
from dataclasses import fields

import lightning
import numpy as np
import pytest
import torch

from unipot.batch import AtomBatch, collate
from unipot.cli import sentence_of
from unipot.data.mixture.datamodule import EvaluationDataset, MixtureDataModule, StepDataset, evaluation_batches
from unipot.data.mixture.selection import Selection
from unipot.data.spec import DatasetSpec, MixtureSpec

N_STEPS = 9
# what Lightning 2.6 says about small loaders, and torch 2.13 about Lightning's use of pytrees
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*loader.*num_workers.*"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes.*"),  # on a machine with one core
]


class RecordingModule(lightning.LightningModule):
    """One weight trained by hand on the positions it sees; remembers the ids of every step."""

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.seen: list[tuple[str, ...]] = []
        self.n_edges: dict[str, list[int]] = {"training": [], "validation": []}
        self.fail_after = fail_after

    def training_step(self, batches: list[AtomBatch], batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for batch in batches:
            self.manual_backward((batch.positions @ self.weight).mean() + self.weight.square().sum())
        optimizer.step()
        self.seen.append(tuple(i for batch in batches for i in batch.ids))
        self.n_edges["training"].append(sum(batch.n_edges for batch in batches))
        if self.fail_after is not None and len(self.seen) == self.fail_after:
            raise InterruptedError("killed")

    def validation_step(self, batch: AtomBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.n_edges["validation"].append(batch.n_edges)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def assert_same_batch(a: AtomBatch, b: AtomBatch) -> None:
    """Every field equal, bit for bit."""
    for field in fields(AtomBatch):
        one, other = getattr(a, field.name), getattr(b, field.name)
        for x, y in zip(one.values(), other.values(), strict=True) if isinstance(one, dict) else [(one, other)]:
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, field.name


class SaveAt(lightning.Callback):
    """Writes the run state after `step` optimizer steps."""

    def __init__(self, step: int, path: str) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.fixture
def data(make_store):
    """A function that makes the data module, as every start of a run would."""
    stores = [make_store("big", n=30), make_store("small", n=7)]

    def make(num_workers: int = 0, **options: object) -> MixtureDataModule:
        defaults = {
            "specs": [DatasetSpec(name=s.name, path=str(s.path), level_of_theory="PBE") for s in stores],
            "stores": stores,
            "train_indices": [np.arange(5, 30), np.arange(1, 7)],
            "validation_indices": [np.arange(5), np.arange(1)],
            "head_index": [0, 3],
            "mixture": MixtureSpec(structures_per_step=6, max_atoms=40, max_edges=1000, micro_batches_per_step=2, seed=5),
            "cutoff": 5.0,
            "n_steps": N_STEPS,
            "num_workers": num_workers,
        }
        return MixtureDataModule(**{**defaults, **options})

    return make


@pytest.fixture
def fit(tmp_path, data):
    def run(
        module: RecordingModule, num_workers: int, checkpoint: str | None = None, save_at: int | None = None, **options: object
    ) -> None:
        callbacks = [] if save_at is None else [SaveAt(save_at, str(tmp_path / "run.ckpt"))]
        trainer = lightning.Trainer(
            max_steps=N_STEPS,
            max_epochs=-1,
            use_distributed_sampler=False,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, datamodule=data(num_workers, **options), ckpt_path=checkpoint, weights_only=True)

    return run


def test_a_step_is_what_the_plan_says(data):
    module = data()
    batches = next(iter(module.train_dataloader()))
    planned = module.plan.micro_batches(0)
    ids = [tuple(module.stores[d].ids[i] for d, i in micro_batch) for micro_batch in planned]
    assert [batch.ids for batch in batches] == ids
    for batch, micro_batch in zip(batches, planned, strict=True):
        assert batch.dataset_index.tolist() == [d for d, _ in micro_batch]
        assert batch.head_index.tolist() == [(0, 3)[d] for d, _ in micro_batch]
        assert batch.cutoff == 5.0


def test_a_step_holds_what_collate_makes(data):
    module = data()
    for batch, draws in zip(module.train_dataloader().dataset[3], module.plan.micro_batches(3), strict=True):
        structures = [module.stores[d][i] for d, i in draws]
        made = collate(structures, cutoff=5.0, head_index=[(0, 3)[d] for d, _ in draws], dataset_index=[d for d, _ in draws])
        assert_same_batch(batch, made)


def test_validation_structures_are_never_trained_on(data):
    module = data()
    trained = {i for step in module.train_dataloader() for batch in step for i in zip(batch.ids, batch.dataset_index.tolist(), strict=True)}
    held_out = {
        i
        for part in module.validation_sets()
        for n in range(len(part))
        for i in zip(part[n].ids, part[n].dataset_index.tolist(), strict=True)
    }
    assert trained and held_out and not trained & held_out


def test_workers_do_not_change_a_step(data):
    alone, helped = data(0), data(2)
    for a, sent in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        b = helped.transfer_batch_to_device(sent, torch.device("cpu"), 0)
        assert [x.ids for x in a] == [x.ids for x in b]
        assert all(torch.equal(x.positions, y.positions) and torch.equal(x.edge_index, y.edge_index) for x, y in zip(a, b, strict=True))


def test_ranks_share_a_step(data):
    module = data()
    options = {"n_steps": N_STEPS, "cutoff": 5.0, "dtype": torch.float32}
    arguments = (module.plan, module.stores, module.head_index)
    whole = StepDataset(*arguments, **options)
    parts = [StepDataset(*arguments, **options, rank=rank, world_size=2) for rank in range(2)]
    for step in range(N_STEPS):
        shared = sorted(batch.ids for part in parts for batch in part[step])
        assert shared == sorted(batch.ids for batch in whole[step])
    with pytest.raises(ValueError, match="3 processes cannot share micro_batches_per_step=2"):
        StepDataset(*arguments, **options, world_size=3)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("saved", "killed"), [(1, 2), (4, 6)])
def test_a_killed_run_continues_bitwise(fit, tmp_path, num_workers, saved, killed):
    whole = RecordingModule()
    fit(whole, 0)
    first = RecordingModule(fail_after=killed)
    with pytest.raises(InterruptedError):
        fit(first, num_workers, save_at=saved)
    second = RecordingModule()
    fit(second, num_workers, checkpoint=str(tmp_path / "run.ckpt"))
    assert len(whole.seen) == N_STEPS
    assert first.seen[:saved] + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight) and whole.weight.abs().sum() > 0


def test_a_pickled_loader_carries_no_columns(data):
    module = data(train_indices=[Selection.everything(30), Selection.everything(7)])
    dataset = module.train_dataloader().dataset
    copy = pickle.loads(pickle.dumps(dataset))
    for a, b in zip(dataset[4], copy[4], strict=True):
        assert_same_batch(a, b)
    assert len(pickle.dumps(dataset)) < 3000


@pytest.mark.parametrize("neighbors", ["workers", "device"])
def test_neighbor_lists_on_the_device_are_those_of_the_workers(data, neighbors):
    module, reference = data(neighbors=neighbors), data()
    step, expected = next(iter(module.train_dataloader())), next(iter(reference.train_dataloader()))
    if neighbors == "device":
        assert all(batch.n_edges == 0 for batch in step)
    step = module.on_after_batch_transfer(module.transfer_batch_to_device(step, torch.device("cpu"), 0), 0)
    for a, b in zip(step, expected, strict=True):
        assert a.cutoff == b.cutoff and edges_of(a) == edges_of(b) and a.n_edges > 0
    batch = module.on_after_batch_transfer(next(iter(module.val_dataloader()[0])), 0)
    assert edges_of(batch) == edges_of(next(iter(reference.val_dataloader()[0])))


def test_a_trainer_fills_in_the_neighbor_lists(fit):
    by_workers, on_device = RecordingModule(), RecordingModule()
    fit(by_workers, 0)
    fit(on_device, 0, neighbors="device")
    assert by_workers.n_edges == on_device.n_edges and len(on_device.n_edges["training"]) == N_STEPS
    assert min(on_device.n_edges["training"]) > 0 and min(on_device.n_edges["validation"]) > 0


def edges_of(batch: AtomBatch) -> list[tuple[float, ...]]:
    return sorted(map(tuple, torch.cat([batch.edge_index.T, batch.cell_shifts], dim=1).tolist()))


def test_a_read_error_in_a_worker_is_one_sentence_with_shard_and_id(data, make_store):
    stores = [make_store("sound", n=10), make_store("torn", n=10)]
    module = data(num_workers=1, stores=stores, train_indices=[np.arange(10)] * 2, validation_indices=[np.arange(0)] * 2)
    shard = stores[1].path / "shards" / "00000.mdb"
    for structure in stores[1]:  # a bit of the first coordinate of each
        known = structure.positions.astype("<f8").tobytes()[:16]
        content = shard.read_bytes()
        assert content.count(known) == 1
        shard.write_bytes(content.replace(known, bytes([known[0] ^ 1]) + known[1:]))
    with pytest.raises(ValueError, match="DataLoader worker") as caught:
        list(module.train_dataloader())
    sentence = sentence_of(caught.value)
    assert sentence is not None and "\n" not in sentence and sentence.startswith(str(stores[1].path)) and "cannot be read" in sentence
    assert "shard 00000" in sentence and "('s-" in sentence


@pytest.mark.parametrize(
    ("option", "said"),
    [({"neighbors": "gpu"}, "must be one of: workers, device"), ({"prefetch_factor": 0}, "at least 1"), ({"num_workers": -1}, "0 or more")],
)
def test_impossible_loading_is_refused(data, option, said):
    with pytest.raises(ValueError, match=said):
        data(**option)


def test_workers_may_prepare_more_steps_ahead(data):
    assert data(num_workers=1, prefetch_factor=5).train_dataloader().prefetch_factor == 5
    assert data(num_workers=0, prefetch_factor=5).train_dataloader().prefetch_factor is None


def test_resume_with_other_data_is_refused(data):
    state = {**data().state_dict(), "step": 4}
    with pytest.raises(ValueError, match="other training data, weights, seed or structures_per_step"):
        data(train_indices=[np.arange(6, 30), np.arange(1, 7)]).load_state_dict(state)
    smaller = data(mixture=MixtureSpec(structures_per_step=6, max_atoms=30, max_edges=900, micro_batches_per_step=3, seed=5))
    smaller.load_state_dict(state)
    assert smaller.state_dict()["step"] == 4


def test_one_validation_loader_per_dataset(data):
    loaders = data().val_dataloader()
    assert [[i for batch in loader for i in batch.ids] for loader in loaders] == [[f"s-{k}" for k in range(5)], ["s-0"]]
    assert [batch.dataset_index.unique().tolist() for loader in loaders for batch in loader][-1] == [1]


def test_a_dataset_without_validation_has_no_loader(data):
    loaders = data(validation_indices=[np.arange(0), np.arange(1)]).val_dataloader()
    assert [int(batch.dataset_index[0]) for loader in loaders for batch in loader] == [1]


def test_evaluation_batches_keep_order_and_budget(make_store):
    store = make_store(n=20)
    batches = list(evaluation_batches(store, cutoff=5.0, head_index=2, dataset_index=1, max_atoms=12, max_edges=200, dtype=torch.float64))
    assert [i for batch in batches for i in batch.ids] == list(store.ids)
    assert len(batches) > 3 and max(batch.n_atoms for batch in batches) <= 12
    assert all(set(batch.head_index.tolist()) == {2} and batch.positions.dtype == torch.float64 for batch in batches)


def test_evaluation_ranks_share_the_batches(make_store):
    options = {"cutoff": 5.0, "head_index": 0, "max_atoms": 12, "max_edges": 200}
    store = make_store(n=20)
    parts = [EvaluationDataset(store, **options).of_rank(rank, 2) for rank in range(2)]
    assert sorted(i for part in parts for n in range(len(part)) for i in part[n].ids) == sorted(store.ids)


def test_an_oversize_validation_structure_is_refused_at_the_start(data):
    with pytest.raises(ValueError, match=r"exceed the budget of one micro-batch \(max_atoms=7"):
        data(
            train_indices=[np.array([7]), np.array([0])],
            validation_indices=[np.array([6]), np.array([1])],
            mixture=MixtureSpec(structures_per_step=2, max_atoms=7, max_edges=1000),
        )


def test_lists_and_batches_move_to_a_device(data):
    module = data()
    step = next(iter(module.train_dataloader()))
    moved = module.transfer_batch_to_device(step, torch.device("meta"), 0)
    assert isinstance(moved, list) and moved[0].positions.device.type == "meta" and step[0].positions.device.type == "cpu"
    assert module.transfer_batch_to_device(step[0], torch.device("meta"), 0).positions.device.type == "meta"
