"""Charges and spins of the data, and what a model makes of them: said before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from unipot.data.charge_states import ChargeStates, charge_states
from unipot.data.store import Store
from unipot.errors import InputError
from unipot.models.backbone import Backbone
from unipot.models.native.charge_spin import multiplicity_in_words
from unipot.models.potential import Potential
from unipot.workflows.inputs.datasets import OpenDataset

#: structures of a set that are looked at to find out whether it is charged; all of them where a model needs the range
SAMPLE = 20_000


def with_trained_states(hyperparameters: dict[str, Any], datasets: Sequence[OpenDataset]) -> dict[str, Any]:
    """`trained_charges` and `trained_spins` filled in from the data where charge or spin is read and they are not given."""
    wanted = [(key, given) for key, given in (("trained_charges", "charge"), ("trained_spins", "spin")) if hyperparameters.get(given)]
    missing = [key for key, _ in wanted if hyperparameters.get(key) is None]
    if not missing:
        return hyperparameters
    found = states_of(datasets)
    values = {"trained_charges": [min(found.charges), max(found.charges)], "trained_spins": sorted(found.multiplicities)}
    return {**hyperparameters, **{key: values[key] for key in missing}}


def states_of(datasets: Sequence[OpenDataset]) -> ChargeStates:
    """Of all structures, held-out ones included: every one of them is predicted during training."""
    return ChargeStates.together(charge_states(store) for item in datasets for store in _stores(item))


def admit_states(console: Console, potential: Potential, datasets: Sequence[OpenDataset], test: Store | None = None) -> None:
    """Let a trained model take the charges and spins of what it is about to be trained on, and say which are new to it.

    Raises:
        ValueError: the frames of the final table have a state that none of the others has.
    """
    backbone = potential.backbone
    if not backbone.conditions or not hasattr(backbone, "admit_states"):
        return
    found, before = states_of(datasets), backbone.trained_states
    backbone.admit_states(found.charges, found.multiplicities)
    after = backbone.trained_states
    if after.charges != before.charges:
        low, high = after.charges
        words = f"total charges now from {low:g} to {high:g}; before from {before.charges[0]:g} to {before.charges[1]:g}"
        console.print(f"  {words}", highlight=False)
    if after.multiplicities != before.multiplicities:
        new = sorted(set(after.multiplicities) - set(before.multiplicities))
        console.print(f"  spin multiplicities new to the model: {', '.join(map(multiplicity_in_words, new))}", highlight=False)
    if test is not None:
        own = charge_states(test)
        if strange := after.outside(own.charges, own.multiplicities):
            raise InputError(f"test_data has {', '.join(strange)}, which nothing that the model is trained on has; leave such frames out")


def show_ignored_states(console: Console, backbone: Backbone, datasets: Sequence[OpenDataset]) -> None:
    """One line for every dataset with charges or unpaired electrons that the backbone does not read."""
    unread = {"total_charge", "spin_multiplicity"} - set(backbone.conditions)
    for item in datasets if unread else ():
        found = charge_states(item.store, at_most=SAMPLE)
        looked_at = "structures" if found.n_structures == len(item.store) else "structures looked at"
        for field, n, what, option in (
            ("total_charge", found.n_charged, "are charged", "charge"),
            ("spin_multiplicity", found.n_open_shell, "have unpaired electrons", "spin"),
        ):
            if n and field in unread:
                remedy = f"; set backbone.hyperparameters.{option}=true" if backbone.name == "native" else ""
                console.print(
                    f"  {item.spec.name}: {n} of {found.n_structures} {looked_at} {what}, and backbone {backbone.name!r} does not read "
                    f"{field}: it gives equal geometries equal energies{remedy}",
                    highlight=False,
                    style="yellow",
                )


def _stores(item: OpenDataset) -> list[Store]:
    return [item.store] if item.validation_store is item.store else [item.store, item.validation_store]
