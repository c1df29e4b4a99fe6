"""Relaxation, dynamics and equation of state: against ASE's EMT, and with models of our own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.harmonic import HarmonicCalculator, HarmonicForceField
from ase.constraints import FixAtoms
from ase.io import read

from unipot.batch import collate
from unipot.calculator import UnipotCalculator
from unipot.simulate import ExplodedError, equation_of_state, molecular_dynamics, relax
from unipot.structure import Structure


@pytest.fixture
def slab():
    atoms = fcc111("Cu", size=(2, 2, 2), vacuum=6.0)
    add_adsorbate(atoms, "O", 1.6, "fcc")
    atoms.set_constraint(FixAtoms(indices=range(4)))
    atoms.calc = EMT()
    return atoms


@pytest.fixture(scope="module")
def copper_potential():
    """A tiny native model whose last layer is fitted in closed form to energies of EMT copper, 12 % of volume around equilibrium."""
    from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone

    frames = []
    for k, factor in enumerate(np.linspace(0.96, 1.04, 30)):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * factor, scale_atoms=True)
        atoms.rattle(0.06 * (k % 3), seed=k)
        atoms.calc = EMT()
        frames.append(Structure.from_ase(atoms, labels={"energy": atoms.get_potential_energy()}))
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 16, "n_vector_channels": 4, "n_layers": 1, "cutoff": 4.5})
    bank = HeadBank()
    reference = CompositionReference(np.zeros(119), np.arange(119) == 29)
    bank.add(Head("emt", level_of_theory="EMT", n_channels=16, n_hidden=16, reference=reference))
    potential = Potential(backbone, bank).double().eval().requires_grad_(False)
    batch = collate(frames, cutoff=potential.cutoff, dtype=torch.float64)
    features = batch.sum_over_atoms(bank["emt"].readout.hidden(backbone(batch).scalars))  # (n_frames, n_hidden)
    normal = features.T @ features + 1e-8 * features.square().mean() * torch.eye(16, dtype=torch.float64)
    bank["emt"].readout.output.weight.copy_(torch.linalg.solve(normal, features.T @ batch.labels["energy"])[None])
    return potential


@pytest.mark.parametrize("optimizer", ["lbfgs", "bfgs", "fire"])
def test_relaxation_brings_forces_below_the_threshold(slab, optimizer):
    result = relax(slab, optimizer=optimizer, fmax=0.02)
    assert result.converged and result.max_forces[-1] < 0.02 < result.max_forces[0]
    assert result.energies[-1] < result.energies[0]


def test_relaxation_leaves_the_input_and_fixed_atoms_alone(slab):
    before = slab.positions.copy()
    result = relax(slab, fmax=0.05)
    assert np.array_equal(slab.positions, before) and np.array_equal(result.atoms.positions[:4], before[:4])


def test_relaxation_that_runs_out_of_steps_says_so(slab):
    result = relax(slab, fmax=1e-6, max_steps=2)
    assert not result.converged and result.n_steps == 2 and "NOT converged" in result.sentence()


def test_a_structure_whose_atoms_are_all_held_is_not_called_relaxed(slab):
    slab.set_constraint(FixAtoms(range(len(slab))))
    assert relax(slab).sentence().startswith("constraints hold all atoms, nothing to relax")


def test_a_relaxed_structure_has_neither_velocities_nor_labels_of_its_start(slab):
    slab.set_momenta(np.ones((len(slab), 3)))
    slab.info.update(energy_dft=-1.0, name="slab")
    result = relax(slab, fmax=0.5)
    assert not result.atoms.has("momenta") and result.atoms.info == {"name": "slab"}
    assert slab.has("momenta") and slab.info["energy_dft"] == -1.0


def test_cell_relaxation_finds_the_lattice_constant():
    atoms = bulk("Cu", a=3.7, cubic=True)
    atoms.calc = EMT()
    result = relax(atoms, relax_cell=True, fmax=1e-3)
    assert result.atoms.cell.lengths() == pytest.approx([3.59] * 3, abs=0.01)


def test_relaxation_trajectory_holds_every_step(slab, tmp_path):
    result = relax(slab, fmax=0.05, trajectory=tmp_path / "steps.extxyz")
    frames = read(tmp_path / "steps.extxyz", ":")
    assert [f.get_potential_energy() for f in frames] == pytest.approx(result.energies.tolist(), abs=1e-6)


def test_unknown_optimizer_names_the_closest(slab):
    with pytest.raises(ValueError, match=r"optimizer 'lbgs' is not known \(did you mean 'lbfgs'\?\); use one of: fire, lbfgs, bfgs"):
        relax(slab, optimizer="lbgs")


def test_cell_of_a_slab_is_not_relaxed(slab):
    slab.pbc = [True, True, False]
    with pytest.raises(ValueError, match=r"pbc is \[True, True, False\]: the cell can be relaxed only"):
        relax(slab, relax_cell=True)


def test_atoms_without_calculator_are_refused():
    with pytest.raises(ValueError, match="atoms have no calculator"):
        relax(molecule("H2O"))


def test_nve_of_an_oscillator_has_the_analytical_period():
    stiffness, mass = 2.0, 16.0
    force_field = HarmonicForceField(ref_atoms=Atoms("O"), hessian_x=stiffness * np.eye(3))
    atoms = Atoms("O", positions=[[0.1, 0, 0]], masses=[mass], momenta=[[1e-12, 0, 0]], calculator=HarmonicCalculator(force_field))
    period = 2 * np.pi * np.sqrt(mass / stiffness) / units.fs
    n_steps = 200
    result = molecular_dynamics(atoms, n_steps=n_steps, timestep=period / n_steps, interval=1)
    assert result.atoms.positions[0, 0] == pytest.approx(0.1, abs=1e-6)
    assert result.potential_energy[n_steps // 4] == pytest.approx(0.0, abs=1e-5)


def test_nve_repeats_itself_with_the_same_seed(slab):
    runs = [molecular_dynamics(slab, n_steps=5, seed=s, interval=1).total_energy for s in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_nvt_reaches_the_temperature_of_the_bath():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    result = molecular_dynamics(atoms, ensemble="nvt", n_steps=200, timestep=4.0, temperature=300, friction=0.05, interval=5)
    # 96 degrees of freedom: the temperature fluctuates by 14 %, its mean over this run by about 4 %
    assert result.temperature[10:].mean() == pytest.approx(300, rel=0.2)


def test_given_velocities_are_kept():
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.3]], momenta=[[0, 0, 1.0], [0, 0, -1.0]], calculator=EMT())
    result = molecular_dynamics(atoms, n_steps=1, timestep=0.1, interval=1)
    assert result.kinetic_energy[0] == pytest.approx(1.0 / atoms.get_masses()[0])


def test_last_step_is_recorded(slab, tmp_path):
    result = molecular_dynamics(slab, n_steps=25, interval=10, trajectory=tmp_path / "md.extxyz")
    assert result.times.tolist() == [0, 5, 10, 12.5] and len(read(tmp_path / "md.extxyz", ":")) == 4


def test_exploding_run_names_the_step(make_potential):
    class Broken(EMT):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            if self.atoms.positions[0, 2] > 0.01:
                raise ValueError("the prediction for Cu2 is not finite")

    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 1.9]], momenta=[[0, 0, 5.0], [0, 0, -5.0]], calculator=Broken())
    with pytest.raises(ValueError, match=r"dynamics failed after step \d of 50 .* at a time step of 1 fs: the prediction"):
        molecular_dynamics(atoms, n_steps=50, timestep=1.0)


def test_what_is_not_finite_is_kept_out_of_the_flagged_frame(tmp_path):
    class Broken(EMT):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            if self.atoms.positions[0, 2] > 0.01:
                self.results["forces"] = np.full((2, 3), np.nan)

    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 1.9]], momenta=[[0, 0, 5.0], [0, 0, -5.0]], calculator=Broken())
    with pytest.raises(ExplodedError, match="velocities are not finite"):
        molecular_dynamics(atoms, n_steps=50, timestep=1.0, interval=1, trajectory=tmp_path / "md.extxyz")
    frames = read(tmp_path / "md.extxyz", ":")
    assert len(frames) > 1 and frames[-1].info["exploded"] and frames[-1].calc is None
    assert np.isfinite(frames[-1].positions).all() and np.isfinite(frames[-1].get_momenta()).all()


def test_what_a_callback_refuses_is_not_called_a_failure_of_the_dynamics(slab):
    def refuse(*_):
        raise ValueError("enough")

    with pytest.raises(ValueError, match=r"^enough$"):
        molecular_dynamics(slab, n_steps=2, on_record=refuse)


def test_a_trajectory_is_not_overwritten_unasked(slab, tmp_path):
    file = tmp_path / "md.traj"
    molecular_dynamics(slab, n_steps=1, trajectory=file)
    with pytest.raises(FileExistsError, match="exists already"):
        molecular_dynamics(slab, n_steps=2, trajectory=file, interval=1)
    molecular_dynamics(slab, n_steps=2, trajectory=file, interval=1, overwrite=True)
    assert len(read(file, ":")) == 3


@pytest.mark.parametrize(("option", "message"), [({"n_steps": 0}, "n_steps is 0"), ({"ensemble": "npt"}, "'npt' is not known")])
def test_wrong_option_is_refused(slab, option, message):
    with pytest.raises(ValueError, match=message):
        molecular_dynamics(slab, **{"n_steps": 1, **option})


def test_equation_of_state_of_copper_is_that_of_emt():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    fit = equation_of_state(atoms)
    # ASE documentation, EMT: a = 3.590 Å and B = 134 GPa
    assert fit.equilibrium_volume == pytest.approx(3.590**3, rel=2e-3)
    assert fit.bulk_modulus_gpa == pytest.approx(134, abs=3)


def test_minimum_outside_the_scan_is_refused():
    atoms = bulk("Cu", a=4.2, cubic=True)
    atoms.calc = EMT()
    with pytest.raises(ValueError, match="lowest at the smallest volume of the scan"):
        equation_of_state(atoms)


def test_molecule_has_no_equation_of_state():
    atoms = molecule("H2O")
    atoms.calc = EMT()
    with pytest.raises(ValueError, match="needs three periodic axes"):
        equation_of_state(atoms)


def test_fitted_model_conserves_energy_in_nve(copper_potential):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = UnipotCalculator(copper_potential)
    result = molecular_dynamics(atoms, n_steps=100, timestep=3.0, temperature=300, interval=2)
    assert result.kinetic_energy.max() > 0.05  # control: something moves
    assert abs(result.drift) < 1e-3 and result.fluctuation < 1e-3  # eV/atom/ps, eV/atom


def test_fluctuation_of_a_fitted_model_falls_with_the_square_of_the_time_step(copper_potential):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = UnipotCalculator(copper_potential)
    coarse, fine = (molecular_dynamics(atoms, n_steps=n, timestep=200 / n, interval=1).fluctuation for n in (25, 50))
    assert coarse / fine == pytest.approx(4, rel=0.25)


def test_fitted_model_relaxes_a_rattled_crystal_back(copper_potential):
    atoms = bulk("Cu", cubic=True)
    perfect = atoms.get_all_distances(mic=True)
    atoms.rattle(0.05, seed=3)
    atoms.calc = UnipotCalculator(copper_potential)
    result = relax(atoms, fmax=1e-3)
    assert result.converged and result.atoms.get_all_distances(mic=True) == pytest.approx(perfect, abs=5e-3)


def test_fitted_model_has_the_equation_of_state_of_its_data(copper_potential):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = UnipotCalculator(copper_potential)
    fit = equation_of_state(atoms, volume_range=0.05)
    assert fit.equilibrium_volume == pytest.approx(3.590**3, rel=0.01)
    assert fit.bulk_modulus_gpa == pytest.approx(134, rel=0.15)
