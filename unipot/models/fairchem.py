"""fairchem's eSCN-MD (eSEN) as a unipot backbone, on our edges and with our conventions.

fairchem is imported when a backbone is built, not before: `import fairchem.core` takes seconds.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from unipot.batch import AtomBatch
from unipot.errors import InputError, MissingPackage
from unipot.models.backbone import AtomFeatures
from unipot.models.fairchem_checkpoint import read_fairchem_checkpoint
from unipot.structure import symbols_of

#: what a backbone is built from when neither the caller nor a checkpoint says otherwise; names are fairchem's
DEFAULTS: dict[str, Any] = {
    "sphere_channels": 64,
    "hidden_channels": 64,
    "edge_channels": 64,
    "num_layers": 2,
    "lmax": 2,
    "mmax": 2,
    "cutoff": 6.0,
    "num_distance_basis": 64,
    "norm_type": "rms_norm_sh",
    "act_type": "gate",
    "chg_spin_emb_type": "rand_emb",
    "grid_resolution": None,
    "max_num_elements": 100,
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "norm_type": ("rms_norm_sh", "layer_norm_sh", "layer_norm"),
    "act_type": ("gate", "s2"),
    "chg_spin_emb_type": ("rand_emb", "pos_emb"),  # lin_emb overwrites the spin of its input and fails in float64
}
#: largest values that are built: what is larger is a slip or a damaged card, and takes hours or all memory
LARGEST = {
    "sphere_channels": 8192, "hidden_channels": 8192, "edge_channels": 8192, "num_layers": 100, "lmax": 11, "mmax": 11, "cutoff": 100,
    "num_distance_basis": 8192, "grid_resolution": 100, "max_num_elements": 200,
}  # fmt: skip
#: what fairchem's embedding tables hold
CHARGE_LIMIT, SPIN_LIMIT = 100, 100


class EscnMdBackbone(nn.Module):
    """eSCN-MD: message passing with SO(2) convolutions in the frame of each edge.

    Energies differentiate in `unipot.models.derivatives` like those of any other backbone; fairchem's own force code
    is not used. From the features of every atom those of the same element alone, under the same total charge and
    spin, are subtracted, so that an atom without neighbours has zero features. Equivariant under rotations, not
    under reflections. The total charge and spin multiplicity of a structure condition all of its atoms.

    Args:
        sphere_channels: width of the node features, and of `AtomFeatures`.
        hidden_channels: width inside the blocks.
        edge_channels: width of the radial networks.
        num_layers: number of message-passing blocks.
        lmax: highest degree of the spherical features, at least 1.
        mmax: highest order kept in the edge frame, at most `lmax`.
        cutoff: Å.
        num_distance_basis: number of Gaussians between 0 and the cutoff.
        norm_type: one of `ALLOWED`.
        act_type: one of `ALLOWED`; `gate` is exactly equivariant, `s2` to about 1e-11.
        chg_spin_emb_type: `rand_emb` (a learned vector per value) or `pos_emb` (Fourier features).
        grid_resolution: of the spherical grid, used by `act_type="s2"` only.
        max_num_elements: elements 1 to `max_num_elements` − 1 are known.
        checkpoint: fairchem inference checkpoint to take hyperparameters and weights from. Hyperparameters given
            beside it must agree with it. It is not part of `hyperparameters`: an artifact holds the weights itself.
        checkpoint_dataset: which dataset embedding of the checkpoint to keep (it is folded into a bias, exactly);
            needed if the checkpoint has several.
        checkpoint_composition: chemical formula for which to merge the experts of a mixture-of-experts checkpoint (UMA).

    Raises:
        ValueError: a hyperparameter is outside its range, or the checkpoint cannot be used.
        ImportError: fairchem-core is not installed.

    Example:
        >>> backbone = EscnMdBackbone(sphere_channels=16, num_layers=1)  # doctest: +SKIP
        >>> backbone.n_channels, backbone.parity  # doctest: +SKIP
        (16, False)
    """

    name = "escn-md"
    conditions = ("total_charge", "spin_multiplicity")
    parity = False
    equivariance_tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}

    def __init__(
        self,
        *,
        sphere_channels: int | None = None,
        hidden_channels: int | None = None,
        edge_channels: int | None = None,
        num_layers: int | None = None,
        lmax: int | None = None,
        mmax: int | None = None,
        cutoff: float | None = None,
        num_distance_basis: int | None = None,
        norm_type: str | None = None,
        act_type: str | None = None,
        chg_spin_emb_type: str | None = None,
        grid_resolution: int | None = None,
        max_num_elements: int | None = None,
        checkpoint: str | None = None,
        checkpoint_dataset: str | None = None,
        checkpoint_composition: str | None = None,
    ) -> None:
        super().__init__()
        given = {key: value for key, value in locals().items() if key in DEFAULTS and value is not None}
        source = read_fairchem_checkpoint(checkpoint, checkpoint_dataset, checkpoint_composition) if checkpoint else None
        for key, value in (("checkpoint_dataset", checkpoint_dataset), ("checkpoint_composition", checkpoint_composition)):
            if value and not checkpoint:
                raise InputError(f"backbone 'escn-md': {key}={value!r} needs a checkpoint; give its path")
        self.hyperparameters = _resolved(given, source.hyperparameters if source else {}, checkpoint)
        self.model = _fairchem_model(self.hyperparameters)
        if source:
            source.load_into(self.model)
        self.cutoff = float(self.hyperparameters["cutoff"])
        self.n_channels = self.n_vector_channels = self.hyperparameters["sphere_channels"]
        self.elements = tuple(range(1, self.hyperparameters["max_num_elements"]))

    def forward(self, batch: AtomBatch) -> AtomFeatures:
        """Features of every atom, zero where it has no neighbours.

        Raises:
            ValueError: an element, charge or spin multiplicity is outside what fairchem embeds.
        """
        batch = _within(batch, self.cutoff)
        conditioning = self._conditioning(batch)  # (n_structures, 2)
        per_atom = conditioning[batch.structure_index]
        keys = (batch.atomic_numbers * (2 * CHARGE_LIMIT + 1) + per_atom[:, 0] + CHARGE_LIMIT) * (SPIN_LIMIT + 1) + per_atom[:, 1]
        keys, twin_of_atom = torch.unique(keys, return_inverse=True)
        embedding = self.model(_atomic_data(batch, conditioning, keys))["node_embedding"][:, :4]  # (n_atoms + n_twins, 4, C)
        atoms, twins = embedding[: batch.n_atoms], embedding[batch.n_atoms :]
        # the difference is zero to rounding without neighbours; the mask makes it exactly zero
        has_neighbors = torch.zeros_like(batch.atomic_numbers, dtype=torch.bool).index_fill(0, batch.edge_index[0], True)
        features = torch.where(has_neighbors[:, None, None], atoms - twins[twin_of_atom], 0.0)
        return AtomFeatures(scalars=features[:, 0], vectors=features[:, 1:4])  # l = 1 is in xyz order

    def layer_groups(self) -> list[tuple[str, tuple[str, ...]]]:
        """Parameter-name prefixes from input to output."""
        embeddings = (
            "sphere_embedding",
            "charge_embedding",
            "spin_embedding",
            "mix_csd",
            "source_embedding",
            "target_embedding",
            "edge_degree_embedding",
        )
        blocks = [(f"block-{i}", (f"model.blocks.{i}.",)) for i in range(self.hyperparameters["num_layers"])]
        return [("embedding", tuple(f"model.{name}." for name in embeddings)), *blocks, ("norm", ("model.norm.",))]

    def element_tables(self) -> dict[str, tuple[int, ...]]:
        """The embeddings of an atom, and of the two atoms of an edge."""
        return {f"model.{name}_embedding.weight": (0,) for name in ("sphere", "source", "target")}

    def no_decay_names(self) -> set[str]:
        """Biases, norms and embedding tables."""
        tables = {f"{name}.weight" for name, module in self.named_modules() if isinstance(module, nn.Embedding)}
        fourier = {name for name, _ in self.named_parameters() if name.endswith("_embedding.W")}
        return tables | fourier | {f"model.{name}" for name in self.model.no_weight_decay()}

    def _conditioning(self, batch: AtomBatch) -> Tensor:
        """(n_structures, 2) int64: total charge and spin multiplicity, checked against what fairchem embeds."""
        charge = batch.total_charge.round()
        spin = batch.spin_multiplicity
        fractional = (batch.total_charge - charge).abs() > 1e-4
        wrong = fractional | (charge.abs() > CHARGE_LIMIT) | (spin < 0) | (spin > SPIN_LIMIT)
        unknown = (batch.atomic_numbers >= self.hyperparameters["max_num_elements"]) | (batch.atomic_numbers < 1)
        if bool(torch.stack([wrong.any(), unknown.any()]).any()):  # one synchronisation
            self._refuse_elements_or_charges(batch, wrong, unknown)
        return torch.stack([charge.long(), spin], dim=1)

    def _refuse_elements_or_charges(self, batch: AtomBatch, wrong: Tensor, unknown: Tensor) -> None:
        structure = int(wrong.nonzero()[0] if wrong.any() else batch.structure_index[unknown.nonzero()[0]])
        where = f"structure {batch.ids[structure]!r}" if structure < len(batch.ids) else f"structure {structure} of the batch"
        if wrong.any():
            raise InputError(
                f"{where}: total charge {float(batch.total_charge[structure]):g}, spin multiplicity "
                f"{int(batch.spin_multiplicity[structure])}; backbone 'escn-md' takes integer charges from "
                f"-{CHARGE_LIMIT} to {CHARGE_LIMIT} and multiplicities from 0 (not stated) to {SPIN_LIMIT}; correct or drop it"
            )
        raise InputError(
            f"{where}: element(s) {symbols_of(batch.atomic_numbers[unknown].cpu())} unknown to backbone 'escn-md', which "
            f"knows Z = 1 to {self.elements[-1]}; drop the structure or build the backbone with a larger max_num_elements"
        )


def _within(batch: AtomBatch, cutoff: float) -> AtomBatch:
    """The batch without edges longer than `cutoff`, which it has if it was collated for another model."""
    if batch.cutoff <= cutoff or batch.n_edges == 0:
        return batch
    centre, neighbor = batch.edge_index
    with torch.no_grad():
        cell = batch.cell[batch.structure_index[centre]]  # (n_edges, 3, 3)
        shifts = torch.einsum("ea,eab->eb", batch.cell_shifts, cell)
        near = (batch.positions[neighbor] + shifts - batch.positions[centre]).norm(dim=1) < cutoff
    return replace(batch, edge_index=batch.edge_index[:, near], cell_shifts=batch.cell_shifts[near], cutoff=cutoff)


def _resolved(given: dict[str, Any], from_checkpoint: dict[str, Any], checkpoint: str | None) -> dict[str, Any]:
    """Hyperparameters from the caller, the checkpoint and the defaults, checked."""
    for key, value in from_checkpoint.items():
        if given.get(key, value) != value:
            raise InputError(f"backbone 'escn-md': {key}={given[key]!r}, but checkpoint {checkpoint} has {value!r}; leave {key} out")
    resolved = {**DEFAULTS, **given, **from_checkpoint}
    for key, allowed in ALLOWED.items():
        if resolved[key] not in allowed:
            raise InputError(f"backbone 'escn-md': {key}={resolved[key]!r} is not supported; use one of: {', '.join(allowed)}")
    for key, largest in LARGEST.items():
        value, kinds = resolved[key], (int, float) if key == "cutoff" else (int,)
        if value is None and DEFAULTS[key] is None:
            continue
        if not isinstance(value, kinds) or not value > 0:
            raise InputError(f"backbone 'escn-md': {key}={repr(value)[:60]}; it must be positive{' and whole' * (key != 'cutoff')}")
        if value > largest:
            raise InputError(f"backbone 'escn-md': {key}={value!r}; it must be at most {largest}")
    if resolved["mmax"] > resolved["lmax"]:
        raise InputError(f"backbone 'escn-md': mmax={resolved['mmax']} exceeds lmax={resolved['lmax']}; lower mmax")
    if resolved["sphere_channels"] % 2:
        raise InputError(f"backbone 'escn-md': sphere_channels={resolved['sphere_channels']} is odd; fairchem needs an even number")
    return resolved


def _fairchem_model(hyperparameters: dict[str, Any]) -> nn.Module:
    return _network_class()(
        **hyperparameters,
        otf_graph=False,  # edges come with the batch
        direct_forces=True,  # together: no differentiation inside, `derivatives` does it
        regress_forces=False,
        ff_type="spectral",  # "grid" breaks rotation invariance at 3e-4
        cs_emb_grad=True,
        use_dataset_embedding=False,  # datasets differ in their heads
        always_use_pbc=False,
    )


@cache
def _network_class() -> type[nn.Module]:
    """fairchem's backbone with a fixed roll of each edge frame.

    fairchem draws the roll angle at random in every call, which moves results by rounding errors and spends random
    numbers: neither a repeated call nor a resumed run would be bitwise the same. The network does not depend on it.
    """
    try:
        with warnings.catch_warnings():  # importing fairchem warns, and adds filters of its own
            warnings.simplefilter("ignore")
            from fairchem.core.models.uma.common.quaternion.wigner_d_hybrid import axis_angle_wigner_hybrid
            from fairchem.core.models.uma.escn_md import eSCNMDBackbone
    except ImportError as error:
        install = "pip install 'unipot[fairchem]'"
        raise MissingPackage(f"backbone 'escn-md' needs fairchem-core ({error}); install it with: {install}") from error

    class EscnMdNetwork(eSCNMDBackbone):
        def _get_rotmat_and_wigner(self, edge_distance_vecs: Tensor) -> tuple[Tensor, Tensor]:
            roll = edge_distance_vecs.new_zeros(edge_distance_vecs.shape[0])
            data = self.wigner_data
            tables = {"coeffs": data.coeffs, "U_blocks": data.U_blocks, "custom_kernels": data.custom_kernels}
            return axis_angle_wigner_hybrid(edge_distance_vecs, self.lmax, gamma=roll, **tables)

    EscnMdNetwork.__module__, EscnMdNetwork.__qualname__ = __name__, "EscnMdNetwork"
    return EscnMdNetwork


def __getattr__(name: str) -> Any:
    if name == "EscnMdNetwork":  # pickle looks the class up by name
        return _network_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _atomic_data(batch: AtomBatch, conditioning: Tensor, keys: Tensor) -> Any:
    """A fresh fairchem record of the batch and, behind it, one lone atom per key.

    fairchem writes into its input, hence a new object each call.

    Args:
        batch: left untouched; its positions and cell may require gradients.
        conditioning: (n_structures, 2) charge and spin multiplicity.
        keys: (n_twins,) distinct (element, charge, spin) codes, see `EscnMdBackbone.forward`.
    """
    from fairchem.core.datasets.atomic_data import AtomicData

    n_twins = keys.shape[0]
    new = batch.positions.new_zeros
    index = batch.n_structures + torch.arange(n_twins, device=keys.device)
    n_edges = torch.bincount(batch.structure_index[batch.edge_index[0]], minlength=batch.n_structures + n_twins)
    charge_code = keys // (SPIN_LIMIT + 1)
    charge = charge_code % (2 * CHARGE_LIMIT + 1) - CHARGE_LIMIT
    numbers = torch.cat([batch.atomic_numbers, charge_code // (2 * CHARGE_LIMIT + 1)])
    return AtomicData(
        pos=torch.cat([batch.positions, new((n_twins, 3))]),
        atomic_numbers=numbers,
        cell=torch.cat([batch.cell, new((n_twins, 3, 3))]),
        pbc=torch.cat([batch.pbc, batch.pbc.new_zeros((n_twins, 3))]),
        natoms=torch.cat([batch.n_atoms_per_structure, torch.ones_like(keys)]),
        edge_index=batch.edge_index.flip(0),  # fairchem: row 0 neighbour, row 1 centre
        cell_offsets=batch.cell_shifts,
        nedges=n_edges,
        charge=torch.cat([conditioning[:, 0], charge]),
        spin=torch.cat([conditioning[:, 1], keys % (SPIN_LIMIT + 1)]),
        fixed=torch.zeros_like(numbers),
        tags=torch.zeros_like(numbers),
        batch=torch.cat([batch.structure_index, index]),
        sid=[""] * (batch.n_structures + n_twins),
    )
