"""`UnipotCalculator`: a potential as an ASE calculator, through the same `collate` that training uses."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from torch import Tensor

from unipot.batch import AtomBatch, Predictions
from unipot.data.mixture.budget import Budget
from unipot.data.unread_keys import state_lookalikes
from unipot.errors import InputError
from unipot.evaluation.predictions import DEFAULT_BUDGET, StructurePrediction, evaluate_structures
from unipot.models.boundary import require_room
from unipot.models.last_layer import energy_difference_uncertainty, is_stale, predict_uncertainty, require_posterior
from unipot.models.potential import Potential
from unipot.models.trained_elements import ElementGuard
from unipot.simulate.moving_batch import MovingBatch
from unipot.structure import CHARGE_KEYS, MULTIPLICITY_KEYS, Structure, fixed_atoms, name_of, symbols_of
from unipot.units import matrix_to_voigt
from unipot.zoo.artifact import load_artifact
from unipot.zoo.loading import tensor_hash

#: entries of `atoms.info` that a prediction may depend on; ASE does not watch them
_WATCHED_INFO = (*CHARGE_KEYS, *MULTIPLICITY_KEYS)

#: arrays of `Atoms` whose change asks for a new calculation, as ASE has it
_WATCHED_ARRAYS = ("positions", "numbers", "initial_charges", "initial_magmoms")

#: Å; see the table of `scripts/benchmark_simulation.py`
DEFAULT_SKIN = 0.5


class UnipotCalculator(Calculator):
    """Energy (eV), forces (eV/Å), stress (eV/Å³, Voigt xx yy zz yz xz xy, positive under tension) and energies per atom (eV).

    Stress exists only for atoms that are periodic along all axes. Total charge and spin multiplicity are taken from
    `atoms.info["total_charge"]` and `atoms.info["spin_multiplicity"]`; what property heads predict stands under the
    name of the property, and its standard deviation under `<name>_uncertainty`, in the property's own unit, for atoms
    of elements that the head was trained on; which of them the model reads stands in `conditions`, and a charge or open
    shell that it does not read is warned of once. What the energies are (total, adsorption or formation) stands in
    `energy_kind` and, with head and level of theory, in `parameters`, which ASE writes to its files.

    Args:
        model: path or name (see `unipot.zoo.names`) of a model artifact, path of a package (see
            `unipot.zoo.compiled_package`), or a `Potential`. A path gives a copy of its own; a `Potential` is used as it
            is (later changes of its weights are seen after the next `reset()`), and is not modified.
        head: which head predicts; may be left out if there is only one, or if the model was fine-tuned, for the head of
            that.
        device: where to compute; `auto` is the GPU if there is one. With a `Potential`: must be left out, or the device
            it is on.
        uncertainty: also give `results["energy_uncertainty"]` (eV) and `results["forces_uncertainty"]` (n_atoms, 3)
            eV/Å, standard deviations from the head's last-layer posterior or ensemble, ± 1.645 of which are calibrated
            to cover 90 % of the errors on frames like those it was fine-tuned on; one more pass per last-layer weight
            or member. Left out otherwise.
        dtype: torch.float32 or torch.float64, by default the one the model was saved in. With a `Potential`: as device.
        skin: Å, of the neighbour list, which is kept until an atom could have crossed it; results do not depend on it,
            not in the last bit. 0 makes a new list for every geometry.
        trusted: `model` may be a package; loading one runs the machine code in it, so say so only of those you made.
        unknown_elements: what is done about elements that no frame of the head held: `warn` says each once, `refuse`,
            or `allow`.

    Raises:
        ValueError: no head was given though the model has several and was not fine-tuned, uncertainties are wanted of a
            head without a posterior, or device or dtype differ from those of the `Potential`.
        KeyError: the model has no such head; the message lists those it has.

    Example:
        >>> from ase.build import molecule
        >>> atoms = molecule("H2O")
        >>> atoms.calc = UnipotCalculator("runs/pretrain/best.safetensors", head="spice")  # doctest: +SKIP
        >>> atoms.get_potential_energy()  # doctest: +SKIP
        -2081.3
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "energies"]

    def __init__(
        self,
        model: str | Path | Potential,
        head: str | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        uncertainty: bool = False,
        skin: float = DEFAULT_SKIN,
        trusted: bool = False,
        unknown_elements: str = "warn",
        **ase_options: Any,
    ) -> None:
        super().__init__(**ase_options)
        self.potential, self._card = _opened_model(model, device, dtype, trusted)
        self.head = _chosen_head(self.potential, head, self._card)
        self._guard = ElementGuard(self.potential.heads[self.head], unknown_elements)
        self._head_index = self.potential.heads.index(self.head)
        self._info: tuple[Any, ...] = ()
        self._hashed: tuple[Any, str] = ((), "")
        self._moving = MovingBatch(
            cutoff=self.potential.cutoff, skin=skin, head_index=self._head_index, dtype=self.potential.dtype, device=self.potential.device
        )
        self._unmoved: tuple[Any, ...] | None = None
        scalars = self.potential.scalar_properties
        self.implemented_properties = [*type(self).implemented_properties, *scalars, *(f"{name}_uncertainty" for name in scalars)]  # type: ignore[misc]
        self.uncertainty = uncertainty
        if uncertainty:
            require_posterior(self.potential.heads[self.head])
            if is_stale(self.potential, self.potential.heads[self.head]):
                raise InputError(
                    f"head {self.head!r} has error bars of other weights than it has now; fit them again (uncertainty=last-layer)"
                )
        chosen = self.potential.heads[self.head]
        self.parameters.update(head=self.head, level_of_theory=chosen.level_of_theory, energy_kind=chosen.energy_kind)
        self.parameters.update(conditions=", ".join(self.conditions) or "none")
        self._warned = self._warned_of_lookalikes = False

    def __repr__(self) -> str:
        head = f"head {self.head!r} ({self.potential.heads[self.head].level_of_theory})"
        bars = ", with error bars" if self.uncertainty else ""
        precision = str(self.potential.dtype).removeprefix("torch.")
        name = self._card.get("name") or self.potential.backbone.name
        return f"UnipotCalculator({name}, {head}, {self.energy_kind} energies, {precision} on {self.potential.device}{bars})"

    @property
    def provenance(self) -> dict[str, str]:
        """What a frame says of where its numbers are from: name and SHA-256 of the model, head and level of theory."""
        digest = self._card.get("sha256")
        if digest is None:  # a model that is no file; its weights may have changed since the last frame
            weights = self.potential.state_dict()
            state = tuple((name, tensor.data_ptr(), tensor._version) for name, tensor in weights.items())
            if state != self._hashed[0]:
                self._hashed = state, tensor_hash(weights)
            digest = self._hashed[1]
        facts = {"model": str(self._card.get("name") or "unnamed"), "model_sha256": str(digest), "head": self.head}
        return {**facts, "level_of_theory": self.potential.heads[self.head].level_of_theory}

    @property
    def energy_kind(self) -> str:
        """`total`, `adsorption` or `formation`, see `unipot.properties.ENERGY_KINDS`."""
        return self.potential.heads[self.head].energy_kind

    @property
    def conditions(self) -> tuple[str, ...]:
        """Which of `total_charge` and `spin_multiplicity` predictions depend on."""
        return self.potential.backbone.conditions

    def set(self, **options: Any) -> dict[str, Any]:
        """ASE's `set`; what the model says of itself stays.

        Raises:
            ValueError: head, level of theory, kind of energy or what is read would change.
        """
        if fixed := sorted({"head", "level_of_theory", "energy_kind", "conditions"} & set(options)):
            raise InputError(f"{fixed[0]} of a calculator is fixed; make another one: UnipotCalculator(model, head=...)")
        return super().set(**options)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, by any bit (`tol` is not looked at); charge and spin in `atoms.info` included."""
        changes = [name for name in _changes(self.atoms, atoms) if name not in self.ignored_changes]
        return [*changes, "info"] if _info_of(atoms) != self._info else changes

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Fill `self.results`. Energy and forces always come, stress whenever it exists, energies when asked for.

        Raises:
            ValueError: a position is not finite, an element is unknown to the model or head, or the prediction is not
                finite.
            PropertyNotImplementedError: stress was asked for and an axis is not periodic.
        """
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        periodic = bool(atoms.pbc.all())
        if "stress" in properties and not periodic:
            raise PropertyNotImplementedError(
                f"stress of {atoms.get_chemical_formula()} is not defined: pbc is {atoms.pbc.tolist()}, all three axes must be periodic"
            )
        batch = self.batch_of(atoms)
        wanted = ("energy", "forces", "stress") if periodic else ("energy", "forces")
        scalars = [name for name in self.potential.scalar_properties if self.potential.property_heads[name].knows(batch.atomic_numbers)]
        predictions = self.potential(batch, properties=(*wanted, *scalars), create_graph=False)
        self.results = _results(predictions, periodic) | _scalar_results(self.potential, predictions)
        if self.uncertainty:
            widths = predict_uncertainty(self.potential, batch)
            self.results["energy_uncertainty"] = float(widths.energy[0])
            self.results["forces_uncertainty"] = _numpy(widths.forces)
        if "energies" in properties:
            with torch.no_grad():
                self.results["energies"] = self.potential.atomic_energies(batch).cpu().numpy()
        self._info = _info_of(atoms)
        if not all(np.isfinite(value).all() for value in self.results.values()):
            raise InputError(f"the prediction for {atoms.get_chemical_formula()} is not finite; {_closest_pair(batch)}")

    def evaluate(
        self, images: Iterable[Atoms], properties: Collection[str] = ("energy", "forces"), *, budget: Budget = DEFAULT_BUDGET
    ) -> list[StructurePrediction]:
        """Predictions for many structures of any sizes, in the order given; many times faster than one by one for small ones.

        Args:
            images: their own calculators are not looked at.
            properties: out of energy, forces and stress (None where an axis is not periodic).
            budget: largest contents of a batch; a structure that is larger is predicted alone.

        Raises:
            ValueError: a structure is not sound, has an element that is unknown to the head, or a prediction is not
                finite.
        """
        images = list(images)
        structures = [Structure.from_ase(atoms, id=f"{name_of(atoms)} (number {k})") for k, atoms in enumerate(images)]
        for atoms, structure in zip(images, structures, strict=True):
            self._warn_of_lookalikes(atoms)
            self._warn_of_unread(structure)
            self._require_known(structure.atomic_numbers)
        return list(
            evaluate_structures(
                self.potential,
                structures,
                head=self.head,
                properties=properties,
                budget=budget,
                unknown_elements="allow",  # said above
            )
        )

    def energy_difference_uncertainty(self, images: Sequence[Atoms], coefficients: Sequence[float]) -> float:
        """Standard deviation (eV) of Σ_s c_s E_s, what the energies have in common cancelled.

        An adsorption energy has the coefficients (1, −1, −1) for pair, slab and molecule, a barrier (1, −1).

        Raises:
            ValueError: see `unipot.models.last_layer.energy_difference_uncertainty`.
        """
        structures = [Structure.from_ase(atoms, id=name_of(atoms)) for atoms in images]
        return energy_difference_uncertainty(self.potential, structures, coefficients, self.head)

    def batch_of(self, atoms: Atoms) -> AtomBatch:
        """`atoms` as the batch that training would make of it.

        Raises:
            ValueError: a position is not finite, or an element is unknown to the model or head.
        """
        self._follow_potential()
        unmoved = (_info_of(atoms), fixed_atoms(atoms).tobytes())
        if unmoved == self._unmoved and (batch := self._moving.known(atoms)) is not None:
            return batch
        structure = Structure.from_ase(atoms, id=name_of(atoms))
        self._warn_of_lookalikes(atoms)
        self._warn_of_unread(structure)
        self._require_known(structure.atomic_numbers)
        require_room([structure], self.potential)
        self._unmoved = unmoved
        return self._moving.new(atoms, structure)

    def _follow_potential(self) -> None:
        """A `Potential` may have been moved or converted since the last call."""
        potential, moving = self.potential, self._moving
        if (moving.device.type, moving.dtype) != (potential.device.type, potential.dtype):
            self._moving = MovingBatch(
                cutoff=moving.cutoff, skin=moving.skin, head_index=self._head_index, dtype=potential.dtype, device=potential.device
            )

    def _warn_of_lookalikes(self, atoms: Atoms) -> None:
        """Once: keys of `atoms.info` that seem to state a charge or spin, which are not read."""
        keys = state_lookalikes(atoms.info, _WATCHED_INFO) if atoms.info and not self._warned_of_lookalikes else []
        if keys:
            self._warned_of_lookalikes = True
            read = "total_charge (|e|) and spin_multiplicity (2S+1)"
            warnings.warn(f"{name_of(atoms)}: atoms.info[{keys[0]!r}] is not read; charge and spin are taken from {read}", stacklevel=4)

    def _warn_of_unread(self, structure: Structure) -> None:
        unread = [("total charge", structure.total_charge)] * ("total_charge" not in self.conditions and structure.total_charge != 0)
        open_shell = (structure.spin_multiplicity or 1) > 1 and "spin_multiplicity" not in self.conditions
        unread += [("spin multiplicity", structure.spin_multiplicity)] * open_shell
        if unread and not self._warned:
            self._warned = True
            words = " and ".join(f"{name} {value:g}" for name, value in unread)
            sentence = f"{structure.id}: this model does not read {words}; energies are those it has learned for the geometry"
            if self.uncertainty:
                sentence += ", and error bars do not contain what it makes of them"
            warnings.warn(sentence, stacklevel=4)

    def _require_known(self, atomic_numbers: np.ndarray) -> None:
        reference = self.potential.heads[self.head].reference
        known = set(np.flatnonzero(reference.known.cpu().numpy()).tolist()) & set(self.potential.backbone.elements)
        unknown = sorted(set(atomic_numbers.tolist()) - known)
        if unknown:
            raise InputError(
                f"element(s) {symbols_of(unknown)} are unknown to head {self.head!r} of this model, which knows "
                f"{symbols_of(sorted(known)) or 'none'}; choose another head or model ({_heads_with(self.potential, unknown)})"
            )
        self._guard.check(atomic_numbers)


def _opened_model(
    model: str | Path | Potential, device: str | torch.device | None, dtype: torch.dtype | None, trusted: bool
) -> tuple[Potential, dict[str, Any]]:
    """The potential, and the card of the file it comes from; an empty one without a file."""
    if isinstance(model, Potential):
        potential, card, device = model, {}, None if device == "auto" else device
    elif Path(model).suffix == ".pt2":
        from unipot.zoo.compiled_package import load_package

        potential, card, device = load_package(model, trusted=trusted), {"name": Path(model).stem}, None if device == "auto" else device
    else:
        # gradients of weights stay enabled: without them autograd sums in another order, and the last bits would differ
        artifact = load_artifact(model, device=_device(device), dtype=dtype)
        return artifact.potential, {"name": Path(model).stem, **artifact.card}
    _require_same(potential, device, dtype)
    return potential, card


def _device(device: str | torch.device | None) -> str | torch.device:
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device or "cpu"


def _chosen_head(potential: Potential, head: str | None, card: dict[str, Any]) -> str:
    if head is not None:
        potential.heads.index(head)
        return head
    finetune = card.get("finetune")
    named = finetune.get("head") if isinstance(finetune, dict) else None
    if named in potential.head_names:
        return str(named)
    if len(potential.head_names) != 1:
        described = ", ".join(f"{name!r} ({potential.heads[name].level_of_theory})" for name in potential.head_names)
        raise InputError(f"the model has {len(potential.head_names)} heads: {described or 'none'}; say which one with head=...")
    return potential.head_names[0]


def _heads_with(potential: Potential, elements: Sequence[int]) -> str:
    able = [name for name in potential.head_names if bool(potential.heads[name].reference.known[list(elements)].all())]
    return f"heads that know them: {', '.join(able)}" if able else "no head of this model knows them"


def _require_same(potential: Potential, device: str | torch.device | None, dtype: torch.dtype | None) -> None:
    if device is not None and torch.device(device).type != potential.device.type:
        raise InputError(f"device is {device}, but the potential is on {potential.device}; move it first: potential.to({str(device)!r})")
    if dtype is not None and dtype != potential.dtype:
        raise InputError(f"dtype is {dtype}, but the potential has {potential.dtype}; convert it first: potential.to({dtype})")


def _changes(before: Atoms | None, after: Atoms) -> list[str]:
    """ASE's `compare_atoms` without its tolerance, which takes 80 µs; an integrator asks three times a step."""
    if before is None:
        return list(all_changes)
    changed = [name for name in _WATCHED_ARRAYS if not np.array_equal(before.arrays.get(name), after.arrays.get(name))]
    pairs = {"cell": (before.cell.array, after.cell.array), "pbc": (before.pbc, after.pbc)}
    return changed + [name for name, (old, new) in pairs.items() if not np.array_equal(old, new)]


def _info_of(atoms: Atoms) -> tuple[Any, ...]:
    return tuple(atoms.info.get(name) for name in _WATCHED_INFO)


def _results(predictions: Predictions, periodic: bool) -> dict[str, Any]:
    energy = float(predictions["energy"][0])
    results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": _numpy(predictions["forces"])}
    if periodic:
        results["stress"] = matrix_to_voigt(_numpy(predictions["stress"])[0])
    return results


def _scalar_results(potential: Potential, predictions: Predictions) -> dict[str, float]:
    results = {}
    for name, members in predictions.members.items():
        results[name] = float(predictions[name][0])
        uncertainty = potential.property_heads[name].uncertainty(members)
        if uncertainty is not None:
            results[f"{name}_uncertainty"] = float(uncertainty[0])
    return results


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def _closest_pair(batch: AtomBatch) -> str:
    if batch.n_edges == 0:
        return "no atom has a neighbour; the weights of the model may be damaged"
    centre, neighbor = batch.edge_index
    shift = torch.einsum("ea,ab->eb", batch.cell_shifts, batch.cell[0])
    distances = (batch.positions[neighbor] + shift - batch.positions[centre]).norm(dim=1)
    nearest = int(distances.argmin())
    return (
        f"the closest atoms are {int(centre[nearest])} and {int(neighbor[nearest])}, {float(distances[nearest]):.3f} Å apart; "
        "check the geometry, or use a shorter time step"
    )
