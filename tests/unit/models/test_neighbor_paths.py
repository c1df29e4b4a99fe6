"""Every path of the sums over neighbours, the kernel or the padded block without it, through every way to run a model.

Ways are the plain model, its traced graph, generated code, and a package. (That kernel and slots agree in the plain model stands in
`test_neighbor_sums.py`.) Two layers, so that vectors are summed as well as scalars.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from unipot import UnipotCalculator
from unipot.batch import AtomBatch, Predictions, collate
from unipot.models import CompositionReference, CoreRepulsion, Head, HeadBank, Potential, build_backbone
from unipot.models.compiled import CompiledPotential
from unipot.models.core_repulsion import edge_vectors
from unipot.models.derivatives import make_deformable, parameter_gradients
from unipot.models.native import neighbor_block
from unipot.models.native.kernel_library import load_once
from unipot.models.tracing import graph_inputs
from unipot.structure import Structure
from unipot.testing.probes import chiral_cluster
from unipot.zoo.artifact import Artifact
from unipot.zoo.card import ArtifactError
from unipot.zoo.compiled_package import PackagedPotential, load_package, members_of, read_package_card, save_package

PATHS = ("kernel", "slots")
PROPERTIES = ("energy", "forces", "stress")
SETTINGS = {"n_channels": 4, "n_vector_channels": 3, "n_layers": 2, "n_radial": 3, "n_radial_hidden": 5, "n_shapes": (3, 2, 1)}
#: relative to the largest number of its kind, in float64; orders of summation differ
TOLERANCE = 1e-11


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "kernel":
        request.getfixturevalue("kernels")
    monkeypatch.setenv("UNIPOT_NEIGHBOR_SUMS", request.param)
    return request.param


def small_potential() -> Potential:
    """Heads a and b."""
    torch.manual_seed(0)
    backbone, known, bank = build_backbone("native", {**SETTINGS, "spin": True}), np.isin(np.arange(119), (1, 6, 8, 13, 29)), HeadBank()
    for k, name in enumerate(("a", "b")):
        reference = CompositionReference(np.where(known, -10.0 * (k + 1) * np.arange(119.0), 0.0), known)
        bank.add(Head(name, level_of_theory=f"level {name}", n_channels=4, n_hidden=6, scale=2.0 + k, reference=reference))
    return Potential(backbone, bank, CoreRepulsion()).double().train()


def batch_of(potential: Potential, sizes: tuple[int, ...], seed: int) -> AtomBatch:
    """Clusters, crystals with close pairs, and a lone atom; of other sizes than the batch that a graph is traced with."""
    rng, structures = np.random.default_rng(seed), [Structure(atomic_numbers=[8], positions=[[0, 0, 0]], spin_multiplicity=3)]
    for n in sizes:
        sites = rng.uniform(0.0, 3.0 * n ** (1 / 3), size=(n, 3))
        sites[1] = sites[0] + [0.6, 0.1, 0.0]
        cell = 3.0 * n ** (1 / 3) * np.eye(3)
        crystal = Structure(atomic_numbers=rng.choice([13, 29], size=n), positions=sites, cell=cell, pbc=[True] * 3)
        structures += [chiral_cluster((1, 6, 8), n + 2), crystal]
    head_index = [potential.heads.index("b")] * len(structures)
    return collate(structures, cutoff=potential.cutoff, head_index=head_index, dtype=torch.float64)


def expected_of(potential: Potential, batch: AtomBatch, monkeypatch: pytest.MonkeyPatch) -> Predictions:
    """By operations of torch alone."""
    with monkeypatch.context() as patch:
        patch.setenv("UNIPOT_NEIGHBOR_SUMS", "slots")
        return potential(batch, PROPERTIES, create_graph=True)


def deviation(expected: Predictions, found: Predictions) -> float:
    """Largest of all properties, relative to the largest number of its kind."""
    pairs = [(getattr(expected, name).detach(), getattr(found, name).detach()) for name in PROPERTIES]
    assert all(float(a.abs().max()) > 1e-3 for a, _ in pairs)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def second_derivatives(predictions: Predictions, potential: Potential) -> list[torch.Tensor]:
    """By weights, of what training through forces differentiates."""
    values = [getattr(predictions, name) for name in PROPERTIES]
    return parameter_gradients(values, list(potential.parameters()), retain_graph=False)


def require_equal(compiled: CompiledPotential, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = compiled.potential
    compiled(batch_of(potential, (3,), 0), PROPERTIES)
    batch = batch_of(potential, (5, 4), 1)
    expected, found = expected_of(potential, batch, monkeypatch), compiled(batch, PROPERTIES)
    assert compiled.reason is None and deviation(expected, found) < TOLERANCE
    gradients = zip(second_derivatives(expected, potential), second_derivatives(found, potential), strict=True)
    largest = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in gradients)
    assert largest < 100 * TOLERANCE and compiled.n_graphs == 1


def test_a_traced_graph_gives_energies_forces_stress_and_second_derivatives(path, monkeypatch):
    require_equal(CompiledPotential(small_potential(), backend="eager"), monkeypatch)


@pytest.mark.nightly  # beside it: the traced graph above, generated code of training in test_compiled.py, of prediction in packages below
@pytest.mark.filterwarnings("ignore:.*is deprecated.*")  # what torch uses of itself
def test_generated_code_gives_energies_forces_stress_and_second_derivatives(path, monkeypatch):
    require_equal(CompiledPotential(small_potential()), monkeypatch)


@pytest.fixture(scope="module", params=PATHS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PackagedPotential, str]:
    """A package of head b, and the path that it was made for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIPOT_NEIGHBOR_SUMS", request.param)
        file = tmp_path_factory.mktemp("package") / "small.pt2"
        save_package(file, Artifact(potential=small_potential().eval(), card={"name": "small"}), "b")
        return load_package(file, trusted=True), request.param


@pytest.mark.slow
def test_a_package_gives_energies_forces_and_stress(package, monkeypatch):
    packaged, path = package
    plain = small_potential().eval()
    found = packaged(batch_of(packaged, (5, 4), 1), PROPERTIES)
    assert packaged.card["neighbors"] == {"kernel": "edges", "slots": "block"}[path]
    assert deviation(expected_of(plain, batch_of(plain, (5, 4), 1), monkeypatch), found) < TOLERANCE
    with pytest.raises(ValueError, match="it cannot be trained"):
        packaged(batch_of(packaged, (3,), 1), create_graph=True)


@pytest.mark.slow
def test_a_calculator_of_a_package_gives_the_numbers_of_the_model_for_any_size(package):
    packaged, _ = package
    card = read_package_card(packaged.path)
    assert (card["head"], card["level_of_theory"], card["cutoff"]) == ("b", "level b", 5.0)
    fast, plain = UnipotCalculator(packaged.path, trusted=True), UnipotCalculator(small_potential().eval(), head="b")
    copper = bulk("Cu", cubic=True) * (2, 1, 1)
    copper.rattle(0.1, seed=0)
    for atoms in (copper, molecule("H2O"), molecule("CH3CH2OH")):
        results = []
        for calculator in (fast, plain):
            calculator.calculate(atoms)
            results.append(dict(calculator.results))
        assert np.abs(results[1]["forces"]).max() > 1e-3 and results[0].keys() == results[1].keys()
        for name, value in results[1].items():
            np.testing.assert_allclose(results[0][name], value, rtol=1e-11, atol=1e-10)


@pytest.mark.slow
def test_a_calculator_of_a_package_can_be_pickled(package):
    """Processes of a pool are handed one."""
    packaged, _ = package
    atoms = molecule("H2O")
    atoms.calc = UnipotCalculator(packaged.path, trusted=True)
    forces = atoms.get_forces()
    twin = pickle.loads(pickle.dumps(atoms.calc))
    twin.calculate(atoms)
    np.testing.assert_array_equal(twin.results["forces"], forces)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["machine code", "weights", "card"])
def test_a_damaged_package_is_refused_before_its_code_is_loaded(package, tmp_path, monkeypatch, part):
    packaged, _ = package
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: pytest.fail("code was loaded"))
    members = members_of(packaged.path)
    endings = {"machine code": ".so", "weights": "/unipot/model.safetensors", "card": "/unipot/package.json"}
    (name,) = [member for member in members if member.endswith(endings[part])]
    with zipfile.ZipFile(tmp_path / "damaged.pt2", "w") as archive:  # whose own checksums fit
        for member, content in members.items():
            damaged = bytearray(content)
            if member == name:
                damaged = bytearray(content.replace(b'"b"', b'"c"')) if part == "card" else damaged
                damaged[-len(damaged) // 3] ^= part != "card"
            archive.writestr(member, bytes(damaged))
    with pytest.raises(ArtifactError, match="was changed after it was written" if part == "card" else "do not have the SHA-256"):
        load_package(tmp_path / "damaged.pt2", trusted=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:sums over neighbours run without")  # said of the plain model inside
def test_a_package_that_needs_our_kernels_says_so_where_they_cannot_be_had(package, monkeypatch, tmp_path):
    packaged, path = package
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("UNIPOT_KERNELS", str(tmp_path))
    load_once.cache_clear()
    try:
        if path == "kernel":
            with pytest.raises(ValueError, match="need our compiled kernels, and the compiler that CC names, 'no-such-compiler'"):
                load_package(packaged.path, trusted=True)
        else:
            assert load_package(packaged.path, trusted=True).form == "block"
    finally:
        load_once.cache_clear()


@pytest.mark.slow
def test_differences_of_the_forces_of_a_package_are_second_derivatives(package, monkeypatch):
    """Vibrations through a package are made of them."""
    packaged, _ = package
    batch, step = batch_of(packaged, (5,), 2), 1e-4
    along = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(batch.positions.shape)))
    moved = [packaged(replace(batch, positions=batch.positions + sign * step * along)).forces for sign in (1.0, -1.0)]
    monkeypatch.setenv("UNIPOT_NEIGHBOR_SUMS", "slots")
    plain = small_potential().eval()
    geometry = make_deformable(batch_of(plain, (5,), 2), stress=False)
    energy = plain.atomic_energies(geometry.batch).sum()
    (gradient,) = torch.autograd.grad(energy, geometry.positions, create_graph=True)
    (curvature,) = torch.autograd.grad((gradient * along).sum(), geometry.positions)
    torch.testing.assert_close((moved[0] - moved[1]) / (2 * step), -curvature, rtol=1e-6, atol=1e-6 * float(curvature.abs().max()))


@pytest.mark.slow
def test_a_package_takes_strided_and_expanded_tensors(package):
    """Machine code reads addresses; of tensors that are not laid out as it expects it would read other numbers."""
    packaged, _ = package
    batch = batch_of(packaged, (5, 4), 1)
    strided = {
        "positions": batch.positions.T.contiguous().T,
        "cell": batch.cell.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "edge_index": batch.edge_index.T.contiguous().T,
        "cell_shifts": batch.cell_shifts.T.contiguous().T,
        "atomic_numbers": torch.stack([batch.atomic_numbers] * 2, dim=1)[:, 0],
        "structure_index": torch.stack([batch.structure_index] * 2, dim=1)[:, 0],
        "total_charge": batch.total_charge[:1].expand(batch.n_structures),
        "head_index": batch.head_index[:1].expand(batch.n_structures),
    }
    assert not any(tensor.is_contiguous() for tensor in strided.values())
    assert deviation(packaged(batch, PROPERTIES), packaged(replace(batch, **strided), PROPERTIES)) < 1e-14


@pytest.mark.slow
def test_machine_code_itself_takes_strided_and_expanded_tensors(package):
    packaged, _ = package
    batch = batch_of(packaged, (5, 4), 1)
    inputs = graph_inputs(packaged.backbone, packaged.form, batch, edge_vectors(batch))
    scattered = [torch.stack([tensor, tensor], dim=-1)[..., 0] for tensor in inputs]
    same = [tensor[:1].expand(tensor.shape) if (tensor == tensor[:1]).all() else tensor for tensor in inputs]
    assert not any(tensor.is_contiguous() for tensor in scattered)
    assert sum(not tensor.is_contiguous() for tensor in same) >= 2
    for given in (scattered, same):
        for expected, found in zip(packaged.run(inputs), packaged.run(given), strict=True):
            assert torch.equal(expected, found)


def test_a_defect_of_ours_is_raised_and_no_reason_to_fall_back(monkeypatch):
    """A path that is broken must not pass for a machine that cannot compile."""
    monkeypatch.setenv("UNIPOT_NEIGHBOR_SUMS", "slots")
    monkeypatch.delattr(neighbor_block.NeighborBlock, "compiled")
    compiled = CompiledPotential(small_potential(), backend="eager")
    with pytest.raises(AttributeError, match="has no attribute 'compiled'"):
        compiled(batch_of(compiled.potential, (3,), 0))
