"""Charges and spins of a store: from its census, or from the records of a store without one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from unipot.data.charge_states import ChargeStates, charge_states
from unipot.data.quality.census import Census, charge_key
from unipot.data.quality.measurements import measure
from unipot.data.storage.store_upgrade import upgrade_store
from unipot.data.store import Store
from unipot.structure import Structure

GOLDEN = Path(__file__).parents[2] / "golden" / "store-v1.unipot"


def hydrogen(k: int, **state: object) -> Structure:
    return Structure(atomic_numbers=[1, 1], positions=[[0, 0, 0], [0, 0, 0.74]], id=str(k), labels={"energy": -30.0}, **state)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Of an earlier unipot: three structures without a census; the second is charged and states its spin."""
    return Store(upgrade_store(GOLDEN, tmp_path / "s.unipot"))


def test_records_tell_without_a_census(store: Store) -> None:
    assert not (store.path / "census.json").exists()
    expected = [(s.total_charge, s.spin_multiplicity or 0) for s in store]
    found = charge_states(store)
    assert found.charges == Counter(charge for charge, _ in expected) and found.multiplicities == Counter(spin for _, spin in expected)
    assert (found.n_structures, found.n_charged) == (3, 1) and set(found.multiplicities) != {0}


def test_a_sample_looks_at_some_only(store: Store) -> None:
    assert charge_states(store, at_most=2).n_structures == 2


def test_the_census_is_believed(store: Store) -> None:
    census = {"total_charges": {"-1": 2, "0": 5}, "spin_multiplicities": {"0": 3, "1": 1, "2": 3}}
    (store.path / "census.json").write_text(json.dumps(census))
    found = charge_states(store)
    assert found.charges == {-1.0: 2, 0.0: 5} and (found.n_charged, found.n_open_shell) == (2, 3)


def test_a_census_of_before_is_passed_over(store: Store) -> None:
    (store.path / "census.json").write_text(json.dumps({"n_structures": 3}))
    assert charge_states(store).n_structures == 3


def test_census_counts_states_and_survives_a_merge() -> None:
    structures = [hydrogen(0), hydrogen(1, total_charge=-1, spin_multiplicity=2), hydrogen(2, total_charge=0.3334)]
    parts = [Census("h2", "PBE") for _ in range(2)]
    for part, own in zip(parts, (structures[:2], structures[2:]), strict=True):
        part.add(own, measure(own))
    parts[0].merge(json.loads(json.dumps(parts[1].state())))
    report = parts[0].to_dict()
    assert report["total_charges"] == {"-1": 1, "0": 1, "0.33": 1} and report["spin_multiplicities"] == {"0": 2, "2": 1}
    assert "1 with -1, 1 with 0, 1 with 0.33" in dict(parts[0]._lines())["total charge [|e|]"]


def test_a_census_of_neutral_structures_does_not_speak_of_charge() -> None:
    census = Census("h2", "PBE")
    census.add([hydrogen(0)], measure([hydrogen(0)]))
    assert not [quantity for quantity, _ in census._lines() if "charge" in quantity or "spin" in quantity]


@pytest.mark.parametrize(("charge", "key"), [(0.0, "0"), (-0.0, "0"), (-0.001, "0"), (1.0, "1"), (-2.0, "-2"), (0.126, "0.13")])
def test_keys_of_charges_are_few(charge: float, key: str) -> None:
    assert charge_key(charge) == key


def test_sums_of_states() -> None:
    part = ChargeStates(charges=Counter({1.0: 1, 0.0: 2}), multiplicities=Counter({0: 3}))
    assert ChargeStates.together([part, part]).charges == {1.0: 2, 0.0: 4} and part.n_structures == 3
