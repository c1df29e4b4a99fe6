"""Error bars of energies along a reaction path against the spread of independently solved heads, on DFT frames."""

import numpy as np
import pytest
import torch
from ase.io import read

from unipot.batch import collate
from unipot.finetune.alignment.align import align_head
from unipot.finetune.linear import readout_rows as rows_module
from unipot.finetune.linear.readout_rows import readout_rows
from unipot.finetune.uncertainty.calibrated_posterior import fit_posterior
from unipot.models.heads import Head, HeadBank
from unipot.models.last_layer import energy_difference_uncertainty
from unipot.models.potential import Potential
from unipot.models.references import CompositionReference
from unipot.models.registry import build_backbone
from unipot.structure import Structure

N_MEMBERS, N_FRAMES, N_HELD_OUT = 40, 24, 30


@pytest.fixture(scope="module")
def band(real_data):
    """Frames of one nudged elastic band: some to fit to, its first path, eight images, and others, held out; all with labels."""
    frames = [a for a in read(real_data / "cathub_ag111_neb" / "all.extxyz", ":") if a.info["reaction"] == "CH3OHstar__CH3star_OHstar"]
    path = sorted((a for a in frames if a.info["frame"] == 0), key=lambda a: int(a.info["image"]))
    others = [a for a in frames if a.info["frame"] != 0]
    chosen = np.linspace(0, len(others) - 1, N_FRAMES).astype(int)
    rest = [k for k in range(len(others)) if k not in chosen][:: (len(others) - N_FRAMES) // N_HELD_OUT]
    return [with_labels(others[k], k) for k in chosen], [with_labels(a, -1) for a in path], [with_labels(others[k], k) for k in rest]


def with_labels(atoms, number):
    labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(apply_constraint=False)}
    return Structure.from_ase(atoms, id=str(number), labels=labels)


@pytest.fixture(scope="module")
def fitted(band):
    """A small model with random features, its last layer solved for on the frames, with a posterior."""
    torch.manual_seed(0)
    backbone = build_backbone("native", {"n_channels": 8, "n_vector_channels": 4, "n_layers": 1, "cutoff": 4.0})
    heads = HeadBank()
    known = np.ones(119, dtype=bool)
    heads.add(Head("parent", level_of_theory="none", n_channels=8, n_hidden=8, reference=CompositionReference(np.zeros(119), known)))
    potential = Potential(backbone, heads).double().eval()
    batches = [collate(band[0], cutoff=potential.cutoff, dtype=torch.float64)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "EDGE_COMPONENTS", 80_000)
        align_head(potential, "parent", "own", "BEEF-vdW", batches, alignment="last-layer")
        report = {}
        for method in ("ensemble", "last-layer"):
            report[method] = fit_posterior(potential, "own", batches, [], method=method), potential.heads["own"].posterior
        rows = readout_rows(potential, "own", batches, (1, 6, 8, 47), ["last-layer"])["last-layer"]
    return potential, report, rows


def solved_heads(rows, noise):
    """(N_MEMBERS, n_weights) changes of the last layer, each by least squares on frames drawn with replacement; no code of ours."""
    rng, members = np.random.default_rng(5), []
    for _ in range(N_MEMBERS):
        drawn = rng.integers(0, rows.n_frames, rows.n_frames)
        parts = []
        for name, sigma in noise.items():
            for frame in drawn:
                mask = rows.frames[name] == frame
                design = rows.blocks[name].design[mask]
                constant = np.full((len(design), 1), float(name == "energy"))  # one composition, one shift
                parts.append(np.concatenate([design, constant, rows.blocks[name].target[mask][:, None]], axis=1) / sigma)
        stacked = np.concatenate(parts)
        members.append(np.linalg.lstsq(stacked[:, :-1], stacked[:, -1], rcond=1e-10)[0][:-1])
    return np.array(members)


@pytest.mark.parametrize("method", ["last-layer", "ensemble"])
def test_error_bars_along_a_path_follow_the_spread_of_solved_heads(fitted, band, method):
    potential, report, rows = fitted
    head = potential.heads["own"]
    fit, head.posterior = report[method]
    weight, members = head.readout.output.weight, solved_heads(rows, fit.noise)
    batch = collate(band[1], cutoff=potential.cutoff, head_index=[1] * len(band[1]), dtype=torch.float64)
    start, energies = weight.detach().clone(), []
    with torch.no_grad():
        for change in members:
            weight.copy_(start + torch.from_numpy(change)[None])
            energies.append(potential(batch, properties=("energy",)).energy.numpy())
        weight.copy_(start)
    pairs = [(a, b) for a in range(len(band[1])) for b in range(a)]
    spread = [np.std([e[a] - e[b] for e in energies], ddof=1) for a, b in pairs]
    found = [energy_difference_uncertainty(potential, [band[1][a], band[1][b]], [1, -1], "own") / fit.energy.factor for a, b in pairs]
    ratios = np.array(found) / spread
    print(method, "correlation", np.corrcoef(found, spread)[0, 1], "ratio", np.median(ratios), ratios.min(), ratios.max())
    assert np.corrcoef(found, spread)[0, 1] > 0.85
    assert 0.25 < np.median(ratios) < 2


def test_error_bars_of_energies_along_a_path_cover_their_errors(fitted, band):
    """Differences between all images, by a model that has seen other frames of the same reaction and is calibrated on still others."""
    potential, *_ = fitted
    trained, path, held_out = (collate(p, cutoff=potential.cutoff, head_index=[1] * len(p), dtype=torch.float64) for p in band)
    fit_posterior(potential, "own", [trained], [held_out])
    errors = (potential(path, ("energy",)).energy.detach() - path.labels["energy"]).numpy()
    pairs = [(a, b) for a in range(len(errors)) for b in range(a)]
    widths = [energy_difference_uncertainty(potential, [band[1][a], band[1][b]], [1, -1], "own") for a, b in pairs]
    ratios = np.array([abs(errors[a] - errors[b]) for a, b in pairs]) / widths
    rms = np.sqrt(np.mean((ratios * widths) ** 2)), np.sqrt(np.mean(np.square(widths)))
    print("covered", np.mean(ratios <= 1.645), "RMS of errors and error bars, eV", *rms)
    assert np.mean(ratios <= 1.645) > 0.7
    assert 0.25 < rms[0] / rms[1] < 2
