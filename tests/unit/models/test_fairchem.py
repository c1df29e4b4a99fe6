"""The eSCN-MD backbone: conventions, isolated atoms, conditioning, warm starts. Its general contracts are in tests/contracts."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unipot.batch import AtomBatch, collate
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.structure import Structure

pytest.importorskip("fairchem", reason="fairchem-core is not installed")

SMALL = {"sphere_channels": 8, "hidden_channels": 8, "edge_channels": 8, "num_distance_basis": 8, "num_layers": 2, "cutoff": 3.5}
WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])


@pytest.fixture(scope="module")
def backbone():  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return build_backbone("escn-md", SMALL).double().eval()


@pytest.fixture(scope="module")
def potential(backbone):  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    heads = HeadBank()
    reference = CompositionReference(np.linspace(-1, 1, 119), np.ones(119, dtype=bool))
    heads.add(Head("pbe", level_of_theory="PBE", n_channels=backbone.n_channels, reference=reference))
    return Potential(backbone, heads).double().eval()


def water(charge: float = 0.0, spin: int | None = None, numbers: tuple[int, ...] = (8, 1, 1)) -> Structure:
    return Structure(atomic_numbers=list(numbers), positions=WATER, total_charge=charge, spin_multiplicity=spin, id="water")


def salt() -> Structure:
    rng = np.random.default_rng(0)
    cell = 2.8 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    positions = np.array([[0.0, 0, 0], [2.8, 0, 0]]) + 0.1 * rng.normal(size=(2, 3))
    return Structure(atomic_numbers=[11, 17], positions=positions, cell=cell, pbc=True, id="salt")


def far_atom() -> Structure:
    return Structure(atomic_numbers=[8, 1, 1, 1], positions=np.vstack([WATER, [30.0, 0, 0]]), id="water and a far atom")


def batch_of(*structures: Structure, cutoff: float = 3.5, dtype: torch.dtype = torch.float64) -> AtomBatch:
    return collate(structures, cutoff=cutoff, dtype=dtype)


def summed_energy(potential: Potential, batch: AtomBatch, positions: torch.Tensor, cell: torch.Tensor) -> float:
    return float(potential(replace(batch, positions=positions, cell=cell), ("energy",)).energy.detach().sum())


def test_importing_models_does_not_import_fairchem() -> None:
    code = "import sys, unipot.models, unipot.models.fairchem; print(any(m.split('.')[0] == 'fairchem' for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_forces_are_the_numerical_gradient(potential: Potential) -> None:
    batch = batch_of(water(), salt())
    forces = potential(batch).forces
    assert forces.abs().max() > 1e-3
    step = 1e-4
    for atom, axis in ((0, 2), (1, 1), (3, 0), (4, 2)):
        move = torch.zeros_like(batch.positions)
        move[atom, axis] = step
        up, down = (summed_energy(potential, batch, batch.positions + sign * move, batch.cell) for sign in (1, -1))
        assert float(forces[atom, axis].detach()) == pytest.approx(-(up - down) / (2 * step), abs=1e-7)


def test_stress_is_the_numerical_strain_derivative(potential: Potential) -> None:
    batch = batch_of(salt())
    stress = potential(batch, ("energy", "forces", "stress")).stress[0]
    assert stress.abs().max() > 1e-5
    step = 1e-4
    for a, b in ((0, 0), (1, 2)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[a, b] += step / 2
        strain[b, a] += step / 2
        deformed = [(batch.positions @ (torch.eye(3) + s * strain), batch.cell @ (torch.eye(3) + s * strain)) for s in (1, -1)]
        up, down = (summed_energy(potential, batch, *geometry) for geometry in deformed)
        volume = float(torch.linalg.det(batch.cell[0]).abs())
        assert float(stress[a, b]) == pytest.approx((up - down) / (2 * step * volume), abs=1e-8)


def test_vectors_rotate_with_the_structure_in_xyz_order(backbone) -> None:  # type: ignore[no-untyped-def]
    rotation = torch.linalg.qr(torch.tensor(np.random.default_rng(0).normal(size=(3, 3))))[0]
    rotation = rotation * torch.linalg.det(rotation)
    batch = batch_of(water(), salt())
    turned = replace(batch, positions=batch.positions @ rotation.T, cell=batch.cell @ rotation.T)
    before, after = backbone(batch), backbone(turned)
    assert before.vectors.abs().max() > 1e-3
    torch.testing.assert_close(after.scalars, before.scalars, atol=1e-12, rtol=0)
    torch.testing.assert_close(after.vectors, torch.einsum("xy,nyc->nxc", rotation, before.vectors), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_atom_without_neighbors_has_exactly_zero_features(dtype: torch.dtype) -> None:
    features = build_backbone("escn-md", SMALL).to(dtype)(batch_of(far_atom(), salt(), dtype=dtype))
    assert (features.scalars[3] == 0).all() and (features.vectors[3] == 0).all()
    assert features.scalars[:3].abs().max() > 1e-3


def test_a_batch_of_lone_atoms_gives_reference_energies_and_zero_forces(potential: Potential) -> None:
    atoms = [Structure(atomic_numbers=[z], positions=[[0.0, 0, 0]]) for z in (1, 26)]
    predictions = potential(batch_of(*atoms))
    np.testing.assert_allclose(predictions.energy.detach(), np.linspace(-1, 1, 119)[[1, 26]], atol=1e-7)
    assert (predictions.forces == 0).all()


def test_features_fade_out_smoothly_at_the_cutoff(backbone) -> None:  # type: ignore[no-untyped-def]
    sizes = []
    for distance in (3.0, 3.49, 3.4999):
        pair = Structure(atomic_numbers=[6, 8], positions=[[0.0, 0, 0], [distance, 0, 0]])
        sizes.append(float(backbone(batch_of(pair)).scalars.detach().abs().max()))
    assert sizes[0] > 1e-3 > 1e-6 > sizes[2] and sizes[1] < sizes[0]


def test_edges_along_the_axes_are_not_singular(potential: Potential) -> None:
    """The frame of an edge has no unique roll; none of the six directions may show."""
    cross = 2.0 * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)])
    batch = batch_of(Structure(atomic_numbers=[29, 8, 8, 8, 1, 1, 1], positions=cross))
    forces = potential(batch).forces.detach()
    step = 1e-4
    for atom in (0, 2, 5):
        for axis in range(3):
            move = torch.zeros_like(batch.positions)
            move[atom, axis] = step
            up, down = (summed_energy(potential, batch, batch.positions + sign * move, batch.cell) for sign in (1, -1))
            assert float(forces[atom, axis]) == pytest.approx(-(up - down) / (2 * step), abs=1e-7)


def test_a_call_repeats_bitwise_and_leaves_the_random_numbers_alone(potential: Potential) -> None:
    batch, state = batch_of(water(), salt()), torch.get_rng_state()
    assert torch.equal(potential(batch).forces, potential(batch).forces)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_pickled_backbone_gives_the_same_features(backbone) -> None:  # type: ignore[no-untyped-def]
    copied = pickle.loads(pickle.dumps(backbone))
    assert torch.equal(copied(batch_of(salt())).scalars, backbone(batch_of(salt())).scalars)


def test_total_charge_and_spin_condition_the_energy(potential: Potential) -> None:
    energy = potential(batch_of(water(), water(charge=1), water(charge=1, spin=2)), ("energy",)).energy
    assert len({round(float(e), 9) for e in energy.detach()}) == 3


def test_each_charge_gets_its_own_isolated_atoms(backbone) -> None:  # type: ignore[no-untyped-def]
    together = backbone(batch_of(water(), water(charge=-1), water(charge=1, spin=2), salt()))
    alone = backbone(batch_of(water(charge=-1)))
    torch.testing.assert_close(together.scalars[3:6], alone.scalars, atol=1e-12, rtol=0)


def test_the_batch_is_not_touched_and_a_second_geometry_is_not_stale(potential: Potential) -> None:
    batch = batch_of(water(), salt())
    copies = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    first = potential(batch).forces
    moved = replace(batch, positions=batch.positions * 1.02)
    fresh = potential(batch_of(*[replace(s, positions=s.positions * 1.02) for s in (water(), salt())])).forces
    torch.testing.assert_close(potential(moved).forces, fresh, atol=1e-12, rtol=0)
    torch.testing.assert_close(potential(batch).forces, first, atol=1e-12, rtol=0)
    for name, value in copies.items():
        assert torch.equal(getattr(batch, name), value), name
    assert not batch.positions.requires_grad and not batch.cell.requires_grad


def test_longer_edges_of_a_batch_are_left_out(backbone) -> None:  # type: ignore[no-untyped-def]
    torch.testing.assert_close(
        backbone(batch_of(far_atom(), salt(), cutoff=6.0)).scalars, backbone(batch_of(far_atom(), salt())).scalars, atol=1e-12, rtol=0
    )


def test_every_parameter_learns_from_a_force_loss_and_has_one_layer_group(potential: Potential) -> None:
    training = Potential.from_description(json.loads(json.dumps(potential.describe()))).train()
    training.load_state_dict(potential.state_dict())
    predictions = training(batch_of(water(), salt(), far_atom()))
    (predictions.forces.square().sum() + predictions.energy.square().sum()).backward()
    names = [name for name, _ in training.backbone.named_parameters()]
    assert [n for n, p in training.backbone.named_parameters() if p.grad is None] == []
    prefixes = [prefix for _, group in training.backbone.layer_groups() for prefix in group]
    assert all(sum(name.startswith(prefix) for prefix in prefixes) == 1 for name in names)
    assert training.backbone.no_decay_names() <= set(names)
    assert "model.charge_embedding.rand_emb.weight" in training.backbone.no_decay_names()


def test_single_precision_agrees_with_double(potential: Potential) -> None:
    single = Potential.from_description({**potential.describe(), "dtype": "float32"})
    single.load_state_dict(potential.state_dict())
    a, b = single(batch_of(water(), salt(), dtype=torch.float32)), potential(batch_of(water(), salt()))
    torch.testing.assert_close(a.forces.double(), b.forces, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (water(charge=0.5), "structure 'water': total charge 0.5"),
        (water(spin=101), "spin multiplicity 101"),
        (water(numbers=(8, 1, 100)), "element\\(s\\) Fm unknown"),
    ],
)
def test_what_fairchem_cannot_embed_is_refused_by_name(backbone, structure: Structure, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        backbone(batch_of(salt(), structure))


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"num_layer": 2}, "did you mean 'num_layers'"),
        ({"mmax": 3, "lmax": 2}, "mmax=3 exceeds lmax=2"),
        ({"chg_spin_emb_type": "lin_emb"}, "use one of: rand_emb, pos_emb"),
        ({"cutoff": -1.0}, "cutoff=-1.0; it must be positive"),
        ({"checkpoint_dataset": "omat"}, "needs a checkpoint"),
    ],
)
def test_wrong_hyperparameters_are_refused(hyperparameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone("escn-md", hyperparameters)


def write_checkpoint(path: Path, **settings) -> torch.nn.Module:  # type: ignore[no-untyped-def]
    """A fairchem inference checkpoint with random weights; returns the fairchem backbone in it."""
    build_backbone("escn-md", SMALL)  # imports fairchem with its warnings silenced
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fairchem.core.models.uma.escn_md import eSCNMDBackbone
        from fairchem.core.models.uma.escn_moe import eSCNMDMoeBackbone
        from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint
    datasets = {"omol": "omol", "omat": "omat", "mptrj": "omat"}
    shape = {**SMALL, "ff_type": "spectral", "chg_spin_emb_type": "rand_emb", "cs_emb_grad": True, "dataset_emb_grad": True}
    config = {**shape, "dataset_mapping": datasets, "always_use_pbc": False, **settings}
    torch.manual_seed(5)
    model = (eSCNMDMoeBackbone if "num_experts" in settings else eSCNMDBackbone)(**config)
    ema = {f"module.backbone.{key}": value for key, value in model.state_dict().items()}
    raw = {key.removeprefix("module."): torch.zeros_like(value) for key, value in ema.items()}
    target = f"fairchem.core.models.uma.{'escn_moe' if 'num_experts' in settings else 'escn_md'}.{type(model).__name__}"
    stored = MLIPInferenceCheckpoint(
        model_config={"_target_": "fairchem.core.models.base.HydraModel", "backbone": {"model": target, **config}, "heads": {}},
        model_state_dict=raw,
        ema_state_dict={**ema, "n_averaged": torch.tensor(1)},
        tasks_config=[],
    )
    torch.save(stored, path)
    return model.double()


def fairchem_scalars(model: torch.nn.Module, structure: Structure, dataset: str) -> torch.Tensor:
    """Scalar features that fairchem computes with its own neighbour search."""
    from fairchem.core.datasets.atomic_data import AtomicData

    model.otf_graph = True
    atoms = structure.to_ase()
    data = AtomicData.from_ase(atoms, task_name=dataset, target_dtype=torch.float64)
    data.charge[:], data.spin[:] = int(structure.total_charge), structure.spin_multiplicity or 0
    with torch.no_grad():
        return model(data)["node_embedding"][:, 0]


def test_a_warm_start_reproduces_the_features_of_fairchem_for_one_dataset(tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path / "uma.pt")
    warm = build_backbone("escn-md", {"checkpoint": str(tmp_path / "uma.pt"), "checkpoint_dataset": "mptrj"}).double()
    for structure in (salt(), water(charge=1, spin=2)):
        expected = fairchem_scalars(reference, structure, "omat")
        lone = [
            fairchem_scalars(reference, replace(structure, atomic_numbers=[z], positions=[[0.0] * 3], pbc=False, fixed=None), "omat")
            for z in structure.atomic_numbers
        ]
        torch.testing.assert_close(warm(batch_of(structure)).scalars, expected - torch.cat(lone), atol=1e-6, rtol=0)
        assert (fairchem_scalars(reference, structure, "omol") - expected).abs().max() > 1e-3


def test_a_warm_started_backbone_is_built_again_without_the_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "uma.pt")
    warm = build_backbone("escn-md", {"checkpoint": str(tmp_path / "uma.pt"), "checkpoint_dataset": "omat"})
    (tmp_path / "uma.pt").unlink()
    again = build_backbone("escn-md", json.loads(json.dumps(warm.hyperparameters)))
    again.load_state_dict(warm.state_dict(), strict=True)
    assert again.hyperparameters == warm.hyperparameters


@pytest.mark.parametrize(
    ("settings", "hyperparameters", "message"),
    [
        ({}, {}, "set checkpoint_dataset to one of: mptrj, omat, omol"),
        ({}, {"checkpoint_dataset": "oc20"}, "no dataset 'oc20'; its datasets are: mptrj, omat, omol"),
        ({}, {"checkpoint_dataset": "omat", "num_layers": 4}, "num_layers=4, but checkpoint .* has 2"),
        ({"ff_type": "grid"}, {}, "ff_type='grid' is not supported"),
        ({"charge_balanced_channels": [0]}, {}, "charge_balanced_channels=\\[0\\] is not supported"),
        ({"num_experts": 4}, {"checkpoint_dataset": "omat"}, "mixture of experts.*set checkpoint_composition to a formula"),
        ({"num_experts": 4}, {"checkpoint_dataset": "omat", "checkpoint_composition": "water"}, "'water' is not a chemical formula"),
        ({}, {"checkpoint_dataset": "omat", "checkpoint_composition": "H2O"}, "is no mixture of experts"),
    ],
)
def test_unusable_checkpoints_say_why(tmp_path: Path, settings: dict, hyperparameters: dict, message: str) -> None:
    write_checkpoint(tmp_path / "uma.pt", **settings)
    with pytest.raises(ValueError, match=message):
        build_backbone("escn-md", {"checkpoint": str(tmp_path / "uma.pt"), **hyperparameters})


@pytest.mark.filterwarnings("ignore:index_reduce")  # fairchem's own forward
@pytest.mark.parametrize("use_composition", [False, True])
def test_a_mixture_of_experts_is_merged_for_one_composition(tmp_path: Path, use_composition: bool) -> None:
    reference = write_checkpoint(tmp_path / "uma.pt", num_experts=4, use_composition_embedding=use_composition).eval()
    options = {"checkpoint": str(tmp_path / "uma.pt"), "checkpoint_dataset": "omat"}
    water_like, salt_like = (
        build_backbone("escn-md", {**options, "checkpoint_composition": formula}).double() for formula in ("H2O", "NaCl")
    )
    expected = fairchem_scalars(reference, water(), "omat")
    torch.testing.assert_close(fairchem_scalars(water_like.model, water(), "omat"), expected, atol=1e-6, rtol=0)
    differs = (fairchem_scalars(salt_like.model, water(), "omat") - expected).abs().max() > 1e-5
    assert bool(differs) == use_composition


def test_a_mixture_of_experts_without_experts_is_a_plain_backbone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "uma.pt", num_experts=0)
    build_backbone("escn-md", {"checkpoint": str(tmp_path / "uma.pt"), "checkpoint_dataset": "omol"})


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "uma.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "uma.pt").read_bytes()[:5000])
    with pytest.raises(ValueError, match="cut.pt cannot be read safely"):
        build_backbone("escn-md", {"checkpoint": str(tmp_path / "cut.pt")})
    with pytest.raises(FileNotFoundError, match="absent.pt does not exist"):
        build_backbone("escn-md", {"checkpoint": str(tmp_path / "absent.pt")})


class Evil:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (Path.touch, (Path("executed"),))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="cannot be read safely"):
        build_backbone("escn-md", {"checkpoint": str(tmp_path / "evil.pt")})
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_with_omegaconf_configs_is_read(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    write_checkpoint(tmp_path / "plain.pt")
    stored = torch.load(tmp_path / "plain.pt", weights_only=False)  # our own file
    stored.model_config = OmegaConf.create(stored.model_config)
    stored.tasks_config = OmegaConf.create(stored.tasks_config)
    torch.save(stored, tmp_path / "training.pt")
    warm = build_backbone("escn-md", {"checkpoint": str(tmp_path / "training.pt"), "checkpoint_dataset": "omol"})
    assert warm.hyperparameters["sphere_channels"] == 8
    json.dumps(warm.hyperparameters)
