"""Elements the model has never seen: what stands in for them, which rows change, and which may learn."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from unipot.batch import collate
from unipot.finetune.alignment.new_elements import free_rows, start_new_elements, start_rows, trained_elements
from unipot.finetune.alignment.periodic_neighbors import place_of, stand_in_for
from unipot.models import CompositionReference, Head, HeadBank, Potential, build_backbone
from unipot.structure import SYMBOLS, Structure
from unipot.training.optim import build_policy

#: sizes that no table could be mistaken for
BACKBONES = {
    "native": {"n_channels": 8, "n_vector_channels": 4, "n_layers": 2},
    "escn-md": {
        "sphere_channels": 8, "hidden_channels": 8, "edge_channels": 8, "num_layers": 1, "num_distance_basis": 8, "max_num_elements": 87,
    },  # fmt: skip
}
TRAINED = (1, 6, 7, 8, 13, 29, 32)


def symbol(number):
    return SYMBOLS[number]


def number(name):
    return SYMBOLS.index(name)


@pytest.fixture(params=list(BACKBONES))
def potential(request):
    """Two heads, which together know TRAINED."""
    if request.param == "escn-md" and find_spec("fairchem") is None:
        pytest.skip("fairchem-core is not installed")
    torch.manual_seed(0)
    backbone, heads = build_backbone(request.param, BACKBONES[request.param]), HeadBank()
    for name, elements in (("a", TRAINED[:4]), ("b", TRAINED[3:])):
        known = np.isin(np.arange(119), elements)
        reference = CompositionReference(-1.0 * known, known)
        heads.add(Head(name, level_of_theory=name, n_channels=backbone.n_channels, n_hidden=8, reference=reference))
    return Potential(backbone, heads).double().eval()


def frames(potential, *compositions):
    made = [
        Structure(atomic_numbers=[number(name) for name in names], positions=1.3 * np.arange(3 * len(names)).reshape(-1, 3) % 4.1)
        for names in compositions
    ]
    return [collate(made, cutoff=potential.cutoff, dtype=torch.float64)]


def tables_of(potential):
    return {name: dict(potential.backbone.named_parameters())[name] for name in potential.backbone.element_tables()}


@pytest.mark.parametrize(
    "name, trained, expected, rule",
    [
        ("Si", "C Ge O", {"C": 0.5, "Ge": 0.5}, "group"),
        ("Si", "C Sn", {"C": 2 / 3, "Sn": 1 / 3}, "group"),
        ("Si", "C Ge Al P Cl", {"C": 0.25, "Al": 0.25, "P": 0.25, "Ge": 0.25}, "group and period"),
        ("S", "O Al H", {"O": 0.75, "Al": 0.25}, "group and period"),
        ("Co", "Mn Ni C", {"Mn": 1 / 3, "Ni": 2 / 3}, "period"),
        ("Eu", "La Gd O", {"La": 1 / 7, "Gd": 6 / 7}, "period"),
        ("Am", "Eu U", {"Eu": 0.75, "U": 0.25}, "group and period"),
        ("B", "H O Fe", {"O": 1.0}, "period"),
        ("Fe", "Ag C", {"Ag": 1.0}, "block"),
        ("H", "Li F", {"Li": 1.0}, "block"),
        ("Li", "H Na", {"Na": 1.0}, "group"),
        ("F", "Fe U", {"Fe": 1.0}, "nearest atomic number"),
    ],
)
def test_neighbors_in_the_periodic_table_stand_in(name, trained, expected, rule):
    stand_in = stand_in_for(number(name), [number(other) for other in trained.split()])
    assert {symbol(z): pytest.approx(w) for z, w in zip(stand_in.elements, stand_in.weights, strict=True)} == expected
    assert stand_in.rule == rule


def test_every_element_has_its_column():
    columns = {(place_of(z).period, place_of(z).block, place_of(z).column) for z in range(1, 119)}
    assert len(columns) == 118
    assert {symbol(z) for z in range(1, 119) if place_of(z).column == 11} == {"Cu", "Ag", "Au", "Rg"}
    assert {symbol(z) for z in range(1, 119) if place_of(z).column == 18} == {"He", "Ne", "Ar", "Kr", "Xe", "Rn", "Og"}


def test_only_rows_of_new_elements_change(potential):
    before = {name: tensor.clone() for name, tensor in potential.state_dict().items()}
    new = start_new_elements(potential, frames(potential, ("Si", "O", "O"), ("Ag", "C", "Si")))
    assert [symbol(e.atomic_number) for e in new] == ["Si", "Ag"]
    rows = {f"backbone.{name}": axes for name, axes in potential.backbone.element_tables().items()}
    for name, tensor in potential.state_dict().items():
        kept = torch.ones(len(tensor), dtype=torch.bool) if tensor.dim() else torch.ones((), dtype=torch.bool)
        if name in rows:
            kept[[14, 47]] = False
            assert not torch.equal(tensor[14], before[name][14]) and not torch.equal(tensor[47], before[name][47])
        assert torch.equal(tensor[kept], before[name][kept]), name


def test_rows_are_the_weighted_mean_of_the_stand_ins(potential):
    before = {name: table.detach().clone() for name, table in tables_of(potential).items()}
    start_new_elements(potential, frames(potential, ("Si", "O"), ("Ag", "C")))
    for name, table in tables_of(potential).items():
        mean = (before[name][6] + before[name][32] + before[name][13]) / 3  # C, Ge above and below, Al to the left
        torch.testing.assert_close(table[14], mean, rtol=0, atol=1e-15)
        assert torch.equal(table[47], before[name][29])


def test_a_table_of_pairs_is_filled_along_both_axes():
    table = torch.randn(119, 119, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = table.clone()
    stand_ins = {14: stand_in_for(14, [6, 32]), 47: stand_in_for(47, [29])}
    start_rows(table, (0, 1), stand_ins)
    old = [z for z in range(119) if z not in stand_ins]
    assert torch.equal(table[old][:, old], before[old][:, old])
    torch.testing.assert_close(table[14, 8], (before[6, 8] + before[32, 8]) / 2)
    torch.testing.assert_close(table[8, 14], (before[8, 6] + before[8, 32]) / 2)
    torch.testing.assert_close(table[14, 47], (before[6, 29] + before[32, 29]) / 2)
    torch.testing.assert_close(table[14, 14], before[[6, 6, 32, 32], [6, 32, 6, 32]].mean(0))


@pytest.mark.parametrize("name, options", [*BACKBONES.items(), ("native", {**BACKBONES["native"], "charge": True, "spin": True})])
def test_every_parameter_with_a_row_per_element_is_declared(name, options):
    if name == "escn-md" and find_spec("fairchem") is None:
        pytest.skip("fairchem-core is not installed")
    backbone = build_backbone(name, options)
    n_rows = max(backbone.elements) + 1
    found = {
        name: tuple(axis for axis, size in enumerate(p.shape) if size == n_rows)
        for name, p in [*backbone.named_parameters(), *backbone.named_buffers()]
        if n_rows in p.shape
    }
    assert found == backbone.element_tables()


def test_what_is_known_to_any_head_is_not_new(potential):
    before = {name: tensor.clone() for name, tensor in potential.state_dict().items()}
    assert trained_elements(potential) == set(TRAINED)
    assert start_new_elements(potential, frames(potential, ("Cu", "H", "Al"))) == ()
    assert all(torch.equal(tensor, before[name]) for name, tensor in potential.state_dict().items())


def test_frames_and_atoms_are_counted(potential):
    (new,) = start_new_elements(potential, frames(potential, ("Si", "O", "Si"), ("Si", "C"), ("C", "O")))
    assert (new.n_frames, new.n_atoms) == (2, 3)
    for words in ("Si", "0.33 C + 0.33 Al + 0.33 Ge (group and period)", "3 atoms in 2 frames", "extrapolation"):
        assert words in new.warning()
    assert new.to_dict()["weights"] == pytest.approx({"C": 1 / 3, "Al": 1 / 3, "Ge": 1 / 3})


def test_rows_can_be_kept_or_refused(potential):
    before = {name: tensor.clone() for name, tensor in potential.state_dict().items()}
    (new,) = start_new_elements(potential, frames(potential, ("Si", "O")), "keep")
    assert new.stand_in is None and "its rows in the model" in new.warning()
    assert all(torch.equal(tensor, before[name]) for name, tensor in potential.state_dict().items())
    with pytest.raises(ValueError, match="contain Si, which no head of the checkpoint was trained on, and new_elements is refuse"):
        start_new_elements(potential, frames(potential, ("Si", "O")), "refuse")
    with pytest.raises(ValueError, match="new_elements is 'random'; use one of: from-neighbors, keep, refuse"):
        start_new_elements(potential, frames(potential, ("Si", "O")), "random")


def test_rows_of_new_elements_learn_in_frozen_tables_and_no_others(potential):
    potential.heads["b"].reference.known[14] = True
    batch = frames(potential, ("Si", "O", "Cu"))[0]
    batch.head_index.fill_(1)
    potential.heads["b"].reference.known[14] = False
    new = start_new_elements(potential, [batch])
    potential.heads["b"].reference.known[14] = True
    frozen = {name for name, _ in potential.named_parameters() if name.startswith("backbone.")}
    tables = free_rows(potential, new, frozen)
    assert set(tables) == set(potential.backbone.element_tables())
    rows = build_policy(potential, method="heads-only", heads=["b"], free_tables=tables).apply(potential, weight_decay=0.1)
    assert {r.parameter for r in rows if not r.frozen and r.parameter.startswith("backbone.")} == {f"backbone.{name}" for name in tables}
    before = {name: p.detach().clone() for name, p in potential.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in potential.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    potential.train()
    for _ in range(3):
        optimizer.zero_grad()
        potential(batch).forces.square().sum().backward()
        optimizer.step()
    for name, table in tables_of(potential).items():
        old = [z for z in range(len(table)) if z != 14]
        assert torch.equal(table[old], before[f"backbone.{name}"][old])
        assert not torch.equal(table[14], before[f"backbone.{name}"][14])
