"""Contracts of what a backbone says about itself, which freezing, layer-wise rates and artifacts rely on."""

from __future__ import annotations

import json

import torch

from unipot.models.backbone import Backbone
from unipot.models.potential import Potential
from unipot.models.registry import build_backbone
from unipot.structure import MAX_ATOMIC_NUMBER, SYMBOLS, Structure
from unipot.testing.response import batch_of
from unipot.testing.violation import ContractViolation


def check_declarations(backbone: Backbone) -> float:
    """The attributes of the protocol are there and sensible.

    Returns:
        0.0; the comparison is exact, as for the other contracts of this module.
    """
    if not isinstance(backbone, Backbone) or not isinstance(backbone, torch.nn.Module):
        raise ContractViolation(f"declarations: {type(backbone).__name__} is not a torch.nn.Module with the attributes of Backbone")
    if not backbone.cutoff > 0 or not backbone.n_channels > 0:
        raise ContractViolation(f"declarations: cutoff {backbone.cutoff} Å and n_channels {backbone.n_channels} must be positive")
    if not backbone.elements or min(backbone.elements) < 1 or max(backbone.elements) > MAX_ATOMIC_NUMBER:
        raise ContractViolation(f"declarations: elements must be atomic numbers in 1..{MAX_ATOMIC_NUMBER}, not {backbone.elements}")
    missing = {torch.float32, torch.float64} - set(backbone.equivariance_tolerance)
    if missing:
        raise ContractViolation(f"declarations: equivariance_tolerance lacks {', '.join(map(str, missing))}")
    _check_element_tables(backbone)
    return 0.0


def _check_element_tables(backbone: Backbone) -> None:
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}  # type: ignore[attr-defined]
    for name, axes in backbone.element_tables().items():
        if name not in tensors:
            raise ContractViolation(f"declarations: element table {name!r} is neither a parameter nor a buffer")
        shape = tuple(tensors[name].shape)
        if not axes or any(axis >= len(shape) or shape[axis] <= max(backbone.elements) for axis in axes):
            raise ContractViolation(f"declarations: element table {name!r} {shape} has no row per element along axes {axes}")


def check_layer_groups(backbone: Backbone) -> float:
    """Every parameter belongs to exactly one layer group, no group is empty, and `no_decay_names` are parameters."""
    names = [name for name, _ in backbone.named_parameters()]  # type: ignore[attr-defined]
    groups = backbone.layer_groups()
    for name in names:
        owners = [group for group, prefixes in groups if name.startswith(prefixes)]
        if len(owners) != 1:
            raise ContractViolation(f"layer groups: parameter {name!r} belongs to {owners or 'no group'}, expected exactly one")
    for group, prefixes in groups:
        if not any(name.startswith(prefixes) for name in names):
            raise ContractViolation(f"layer groups: group {group!r} matches no parameter")
    if strangers := backbone.no_decay_names() - set(names):
        raise ContractViolation(f"layer groups: no_decay_names are not parameters: {', '.join(sorted(strangers))}")
    return 0.0


def check_rebuild(backbone: Backbone) -> float:
    """Name and hyperparameters survive JSON and build a module with the same state dict keys and shapes."""
    hyperparameters = json.loads(json.dumps(backbone.hyperparameters))
    twin = build_backbone(backbone.name, hyperparameters)
    shapes = [{k: tuple(v.shape) for k, v in b.state_dict().items()} for b in (backbone, twin)]  # type: ignore[attr-defined]
    different = {key for key in shapes[0].keys() | shapes[1].keys() if shapes[0].get(key) != shapes[1].get(key)}
    if different:
        raise ContractViolation(f"rebuild: the rebuilt backbone differs in {', '.join(sorted(different))}")
    if twin.hyperparameters != backbone.hyperparameters or twin.cutoff != backbone.cutoff or twin.elements != backbone.elements:
        raise ContractViolation(f"rebuild: hyperparameters {twin.hyperparameters} differ from {backbone.hyperparameters}")
    return 0.0


def check_unknown_element(potential: Potential) -> float:
    """An element that a head has no reference for is refused by name, not extrapolated to."""
    for index, name in enumerate(potential.heads.names):
        known = potential.heads[name].reference.known.tolist()
        foreign = next((z for z in range(MAX_ATOMIC_NUMBER, 0, -1) if not known[z]), None)
        if foreign is None:
            continue
        pair = Structure(atomic_numbers=[foreign, foreign], positions=[[0, 0, 0], [0, 0, 1.5]], id="foreign")
        try:
            potential(batch_of(potential, [pair], [index]), create_graph=False)
        except (ValueError, KeyError) as error:
            if SYMBOLS[foreign] not in str(error):
                raise ContractViolation(f"unknown element: the error does not name {SYMBOLS[foreign]}: {error}") from error
        else:
            raise ContractViolation(f"unknown element: head {name!r} has no reference for {SYMBOLS[foreign]} but predicted it")
    return 0.0
