"""The native backbone: equivariant message passing whose neighbour sums are matrix products."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch
from unipot.errors import InputError
from unipot.models.backbone import AtomFeatures
from unipot.models.native.charge_spin import ChargeSpinEmbedding, TrainedStates
from unipot.models.native.edge_functions import edge_functions
from unipot.models.native.layer import InteractionLayer, scaled_linear
from unipot.models.native.neighborhood import Neighborhood, missing_kernel, neighborhood, use_kernel
from unipot.models.native.traced_neighbors import neighbor_tensors, neighbors_from
from unipot.models.recomputation import recomputed
from unipot.structure import MAX_ATOMIC_NUMBER

#: largest sizes that are built, far beyond those of any model: what is larger is a slip or a damaged card, and fills the memory
LARGEST = {
    **dict.fromkeys(("n_channels", "n_vector_channels", "n_radial_hidden"), 16_384),
    **dict.fromkeys(("n_radial", "n_shapes"), 1024),
    "n_layers": 100,
}
#: Å
LONGEST_CUTOFF = 100.0


class NativeBackbone(nn.Module):
    """O(3)-equivariant, conservative message passing with element embeddings for Z = 1…118.

    One layer forms, for every atom i, the moments

        A_i[k, lm, c] = (1/√n̄) Σ_j R_k(r_ij, z_i, z_j) Y_lm(r̂_ij) h_j[c],    l = 0, 1, 2,

    with few radial functions R_k shared by all channels, and mixes (k, c) per atom by a dense matrix: the low-rank form
    of channel-wise radial functions, in which a sum over neighbours is a matrix product over neighbours and edge
    tensors hold tens, not hundreds of numbers. R_k comes from a small network of a Bessel basis conditioned on both
    species. From the moments the layer takes invariants up to fourth body order, |A1|², |A2|², A1·A2·A1, tr A2³ (moment
    tensors as in Shapeev 2016; products on atoms as in Batatia et al. 2022), updates scalars through a gated network
    without bias, and passes vectors A1, A2·A1 on to the next layer, where A also receives (R Y ⊗ vector) of degree 0-2.

    Features of an atom without neighbours are exactly zero. Everything is three times continuously differentiable. What was tried
    instead, and what it cost, stands at the top of `unipot/models/native/layer.py`.

    With `charge` or `spin`, a vector per atom (`ChargeSpinEmbedding`) is added to the element embedding and to the output,
    so that a lone ion differs from the lone atom. It is zero for charge 0 and a spin that is not stated: such structures
    have exactly the features of the model without it. States that were not trained are refused, see `trained_charges`.

    Args:
        cutoff: Å.
        n_channels: scalar channels.
        n_vector_channels: vector channels between layers.
        n_layers: interaction layers; the receptive field is n_layers · cutoff.
        n_radial: Bessel functions.
        n_radial_hidden: width of the radial network.
        n_shapes: radial functions R_k per layer for l = 0, 1, 2.
        average_neighbors: n̄, neighbours per atom in the training data; fixed.
        charge: read the total charge of the structure.
        spin: read its spin multiplicity; "not stated" is a state of its own.
        trained_charges: lowest and highest total charge (|e|) of the training data; others are an error, never clamped.
            None sets no limit; a run fills it in.
        trained_spins: spin multiplicities of the training data, 0 for "not stated"; otherwise as `trained_charges`.

    Raises:
        ValueError: a size is not a positive whole number, or one that no computer has room for; a length is not positive; or trained
            states are given for something that is not read.

    Example:
        >>> NativeBackbone(n_channels=8, n_layers=1).layer_groups()[0]
        ('embedding', ('embedding.',))
    """

    name = "native"
    parity = True
    elements = tuple(range(1, MAX_ATOMIC_NUMBER + 1))
    equivariance_tolerance = {torch.float32: 2e-5, torch.float64: 1e-11}

    def __init__(
        self,
        *,
        cutoff: float = 5.0,
        n_channels: int = 64,
        n_vector_channels: int = 32,
        n_layers: int = 2,
        n_radial: int = 8,
        n_radial_hidden: int = 32,
        n_shapes: tuple[int, int, int] = (8, 8, 4),
        average_neighbors: float = 20.0,
        charge: bool = False,
        spin: bool = False,
        trained_charges: Sequence[float] | None = None,
        trained_spins: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "n_channels": n_channels,
            "n_vector_channels": n_vector_channels,
            "n_layers": n_layers,
            "n_radial": n_radial,
            "n_radial_hidden": n_radial_hidden,
            "n_shapes": list(n_shapes),
        }
        _require_sizes(sizes, {"cutoff": cutoff, "average_neighbors": average_neighbors})
        self.hyperparameters: dict[str, Any] = {"cutoff": float(cutoff), **sizes, "average_neighbors": float(average_neighbors)}
        for key, flag in (("charge", charge), ("spin", spin)):
            if not isinstance(flag, bool):
                raise InputError(f"native backbone: {key} is {repr(flag)[:60]}; it must be true or false")
        for key, given, read in (("trained_charges", trained_charges, charge), ("trained_spins", trained_spins, spin)):
            if given is not None and not read:
                raise InputError(f"native backbone: {key} is {list(given)}, but {'charge' if 'charge' in key else 'spin'} is false")
        self.trained_states = TrainedStates.from_hyperparameters(trained_charges, trained_spins)
        self.hyperparameters |= {"charge": bool(charge), "spin": bool(spin), **self.trained_states.hyperparameters()}
        self.conditions = (*(["total_charge"] * charge), *(["spin_multiplicity"] * spin))
        self.cutoff = float(cutoff)
        self.n_channels, self.n_vector_channels = n_channels, n_vector_channels
        self.n_radial = n_radial
        self.average_neighbors = float(average_neighbors)
        n_coefficients = sum(n_shapes)
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, n_channels)
        self.radial_basis = scaled_linear(n_radial, n_radial_hidden)
        self.radial_centre = nn.Embedding(MAX_ATOMIC_NUMBER + 1, n_radial_hidden)
        self.radial_neighbor = nn.Embedding(MAX_ATOMIC_NUMBER + 1, n_radial_hidden)
        self.radial_output = scaled_linear(n_radial_hidden, n_layers * n_coefficients)
        self.layers = nn.ModuleList(
            InteractionLayer(
                n_channels=n_channels,
                n_vector_channels=n_vector_channels,
                n_shapes=tuple(n_shapes),
                vectors_in=k > 0,
            )
            for k in range(n_layers)
        )
        self.charge_spin = ChargeSpinEmbedding(n_channels, charge=charge, spin=spin) if self.conditions else None
        self.activation_checkpointing = False  # how it is computed, not what: belongs to a run and stays out of the artifact

    def forward(self, batch: AtomBatch) -> AtomFeatures:
        """Scalars (n_atoms, n_channels) and vectors (n_atoms, 3, n_vector_channels).

        Raises:
            ValueError: outside training, a charge or spin multiplicity is read that was not trained.
        """
        self.require_states(batch)
        return self.features(batch, neighborhood(batch, self.cutoff))

    def features(self, batch: AtomBatch, pairs: Neighborhood) -> AtomFeatures:
        """As `forward`, with neighbours given; nothing here branches on values in the batch, so that it can be traced."""
        species = pairs.to_rows(batch.atomic_numbers)
        radial, angular = self._edges(pairs, species)
        embedded = self.embedding(species)
        # what charge and spin say is where the scalars begin
        update = torch.zeros_like(embedded) if self.charge_spin is None else pairs.to_rows(self.charge_spin(batch))
        scalars, vectors = embedded if self.charge_spin is None else embedded + update, None
        for layer, functions in zip(self.layers, radial, strict=True):
            arguments = pairs, functions, angular, scalars, vectors
            change, vectors = recomputed(layer, *arguments) if self.activation_checkpointing else layer(*arguments)
            update = update + change
            scalars = embedded + update
        return AtomFeatures(scalars=pairs.to_atoms(update), vectors=pairs.to_atoms(vectors))

    def traced_form(self, batch: AtomBatch) -> str:
        """Form of neighbours for a graph, see `unipot.models.native.traced_neighbors.FORMS`."""
        return "edges" if use_kernel(batch) else "block"

    def obstacle_to_form(self, form: str) -> str | None:
        """Why a graph that was traced with this form of neighbours cannot run on this machine, or None."""
        missing = missing_kernel() if form == "edges" else None
        return None if missing is None else f"its sums over neighbours need our compiled kernels, and {missing}"

    def neighbor_tensors(self, form: str, batch: AtomBatch, vectors: Tensor) -> list[Tensor]:
        """Neighbours as inputs of a graph, see `unipot.models.tracing.TraceableBackbone`."""
        return neighbor_tensors(form, batch, vectors, self.cutoff)

    def neighbors_from(self, form: str, tensors: Sequence[Tensor], vectors: Tensor) -> Neighborhood:
        """Neighbours inside a graph."""
        return neighbors_from(form, tensors, vectors)

    def require_states(self, batch: AtomBatch) -> None:
        """Raises:
        ValueError: outside training, a charge or spin multiplicity is read that was not trained.
        """
        if self.charge_spin is not None and not self.training:
            self.trained_states.require(batch)

    def admit_states(self, charges: Collection[float], multiplicities: Collection[int]) -> None:
        """Widen the trained states, before training on structures that have these total charges and spin multiplicities."""
        self.trained_states = self.trained_states.with_more(charges, multiplicities)
        self.hyperparameters |= self.trained_states.hyperparameters()

    def _edges(self, pairs: Neighborhood, species: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Radial functions of every layer, each (n_pairs, Σ n_shapes), and Y of degrees 1 and 2 (n_pairs, 8)."""
        basis, weight, angular = edge_functions(pairs.vectors, self.cutoff, self.n_radial, compiled=pairs.compiled)
        # index_select, not an index: its derivative is a plain sum of rows
        centre = self.radial_centre(species).index_select(0, pairs.centre)
        neighbor = self.radial_neighbor(species).index_select(0, pairs.neighbor)
        hidden = nn.functional.silu(self.radial_basis(basis) + centre + neighbor) * (weight / self.average_neighbors**0.5)
        outputs = self.radial_output.weight.chunk(len(self.layers))  # one map per layer: no columns to be cut out of the result
        return tuple(nn.functional.linear(hidden, own) for own in outputs), angular

    @property
    def least_bytes_per_edge(self) -> int:
        """Of edge tensors that exist at one time in any pass: geometry, the radial network, the radial functions of all layers."""
        itemsize = self.embedding.weight.element_size()
        return itemsize * (12 + self.n_radial + 2 * self.radial_basis.out_features + self.radial_output.out_features)

    def layer_groups(self) -> list[tuple[str, tuple[str, ...]]]:
        """Embedding, radial functions, then one group per layer."""
        radial = ("radial_basis.", "radial_centre.", "radial_neighbor.", "radial_output.")
        layers = [(f"layer-{k + 1}", (f"layers.{k}.",)) for k in range(len(self.layers))]
        embedding = ("embedding.",) if self.charge_spin is None else ("embedding.", "charge_spin.")
        return [("embedding", embedding), ("radial", radial), *layers]

    def element_tables(self) -> dict[str, tuple[int, ...]]:
        """The embedding, each atom's part in the radial functions of a pair, and the tables of charge and spin."""
        states = {} if self.charge_spin is None else self.charge_spin.element_tables()
        plain = {"embedding.weight": (0,), "radial_centre.weight": (0,), "radial_neighbor.weight": (0,)}
        return {**plain, **{f"charge_spin.{name}": axes for name, axes in states.items()}}

    def no_decay_names(self) -> set[str]:
        kept = ("embedding.", "radial_", "charge_spin.")
        return {name for name, _ in self.named_parameters() if name.startswith(kept) or name.endswith("bias")}


def _require_sizes(sizes: Mapping[str, Any], lengths: Mapping[str, Any]) -> None:
    """Raises:
    ValueError: one of them is not what it must be.
    """
    for key, value in sizes.items():
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) != (3 if key == "n_shapes" else 1) or not all(isinstance(n, int) and 0 < n <= LARGEST[key] for n in numbers):
            three = "three whole numbers" if key == "n_shapes" else "a whole number"
            raise InputError(f"native backbone: {key} is {repr(value)[:60]}; it must be {three} from 1 to {LARGEST[key]:,}")
    for key, value in lengths.items():
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InputError(f"native backbone: {key} is {repr(value)[:60]}; it must be a positive number")
    if lengths["cutoff"] > LONGEST_CUTOFF:
        raise InputError(f"native backbone: cutoff is {lengths['cutoff']:g} Å; it must be at most {LONGEST_CUTOFF:g} Å")
