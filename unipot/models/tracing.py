"""A potential as one graph of tensor operations: energies, forces and virials as a pure function of weights and tensors.

The graph is traced once, with every size that differs between batches as a symbol, and with the derivative by edge vectors
inside; it has no branch and no choice that depends on data. What does depend on data stays outside: the layout of neighbours, the
checks of a batch, composition references, and core repulsion (see `unipot.models.compiled`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, fx, nn

from unipot.batch import AtomBatch
from unipot.models.backbone import AtomFeatures
from unipot.models.derivatives import forces_and_virials
from unipot.models.potential import Potential


@runtime_checkable
class TraceableBackbone(Protocol):
    """A backbone whose message passing can be traced once for all batches; nothing in it branches on data.

    `traced_form` names the form of neighbours to use where the batch lies.
    `neighbor_tensors` makes, outside the graph, a fixed number of tensors, the third of which are vectors (n_pairs, 3);
    `neighbors_from` makes of them, inside the graph, what `features` takes, with `centre` and `neighbor` (n_pairs,).
    `obstacle_to_form` says why a graph of that form cannot run on this machine, None where it can.
    """

    def traced_form(self, batch: AtomBatch) -> str: ...

    def obstacle_to_form(self, form: str) -> str | None: ...

    def neighbor_tensors(self, form: str, batch: AtomBatch, vectors: Tensor) -> list[Tensor]: ...

    def neighbors_from(self, form: str, tensors: Sequence[Tensor], vectors: Tensor) -> Any: ...

    def features(self, batch: AtomBatch, pairs: Any) -> AtomFeatures: ...

    def require_states(self, batch: AtomBatch) -> None: ...


#: fields of a batch that the graph reads, in the order of its arguments
READ = ("atomic_numbers", "structure_index", "head_index", "total_charge", "spin_multiplicity")
#: place of the vectors among the neighbour tensors
VECTORS = 2


def graph_inputs(backbone: TraceableBackbone, form: str, batch: AtomBatch, vectors: Tensor) -> list[Tensor]:
    """What the graph reads of a batch: neighbour tensors, then the fields `READ`.

    The batch gets one more atom, far from all others, in a structure of its own, so that no size is 0 or 1: compilers treat
    these as special.

    Args:
        backbone: knows its neighbour tensors.
        form: of neighbours.
        batch: sound.
        vectors: (n_edges, 3) Å of its edges, without a graph.
    """
    pad = nn.functional.pad
    longer = replace(
        batch,
        atomic_numbers=pad(batch.atomic_numbers, (0, 1), value=1),
        structure_index=pad(batch.structure_index, (0, 1), value=batch.n_structures),
        **{name: pad(getattr(batch, name), (0, 1)) for name in ("head_index", "total_charge", "spin_multiplicity")},
    )
    return [*backbone.neighbor_tensors(form, longer, vectors), *(getattr(longer, name) for name in READ)]


def varying_axes(inputs: Sequence[Tensor]) -> list[list[int]]:
    """Per tensor of `graph_inputs` the axes whose sizes differ between batches: all but x, y, z of vectors."""
    return [[0] if place == VECTORS else list(range(tensor.dim())) for place, tensor in enumerate(inputs)]


class PotentialFunction(nn.Module):
    """What is traced: the energy without references and core repulsion, and its derivatives.

    All heads are evaluated for every atom as one stacked readout, of which each atom keeps the part of its head: that is a
    few percent of the message passing for a handful of heads, and the same operations whatever heads a batch has.

    Args:
        potential: its modules are shared, not copied.
        form: of neighbours, see `TraceableBackbone`.
    """

    def __init__(self, potential: Potential, form: str) -> None:
        super().__init__()
        self.form = form
        self.backbone = potential.backbone
        self.readouts = nn.ModuleList(head.readout for head in potential.heads.heads.values())  # type: ignore[misc]
        sizes = [readout.output.in_features for readout in self.readouts]
        self.owner = torch.repeat_interleave(torch.tensor(sizes, device=potential.device))  # head of each hidden unit

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Energies (S + 1,) eV, float64; forces (n_atoms + 1, 3) eV/Å; virials ∂E/∂ε (S + 1, 3, 3) eV.

        Args:
            tensors: scales of the heads (n_heads,), then `graph_inputs`.
        """
        scales, *tensors = tensors
        neighbor_tensors, fields = tensors[: -len(READ)], dict(zip(READ, tensors[-len(READ) :], strict=True))
        vectors = neighbor_tensors[VECTORS].detach().requires_grad_(True)
        pairs = self.backbone.neighbors_from(self.form, neighbor_tensors, vectors)
        batch = _batch(fields, vectors)
        head = batch.head_index[batch.structure_index]
        readout = self._readout(self.backbone.features(batch, pairs).scalars, head)
        energy = batch.sum_over_atoms(readout.double() * scales[head])
        forces, virials = forces_and_virials(energy, vectors, pairs.centre, pairs.neighbor, batch)
        return energy, forces, virials

    def _readout(self, scalars: Tensor, head: Tensor) -> Tensor:
        """(n_atoms,) of the head of each atom."""
        value = torch.cat([readout.value.weight for readout in self.readouts])
        gate = torch.cat([readout.gate.weight for readout in self.readouts])
        bias = torch.cat([readout.gate.bias for readout in self.readouts])
        output = torch.cat([readout.output.weight[0] for readout in self.readouts])
        hidden = (scalars @ value.T) * torch.sigmoid(scalars @ gate.T + bias)
        return torch.where(self.owner == head[:, None], hidden * output, 0.0).sum(1)


def _batch(read: dict[str, Tensor], vectors: Tensor) -> AtomBatch:
    """A batch as far as a backbone reads it inside the graph; the rest is empty."""
    none = vectors.detach().new_zeros(0)
    names = ("cell", "pbc", "edge_index", "cell_shifts", "fixed", "dataset_index")
    return AtomBatch(
        **read,
        **dict.fromkeys(names, none),
        positions=none,  # only its dtype is read
        n_atoms_per_structure=read["total_charge"],  # only its length is read
    )


@dataclass(frozen=True, kw_only=True)
class TracedPotential:
    """A graph and the weights it takes first.

    Attributes:
        graph: graph(*parameters, *constants, scales_of(...), *graph_inputs(...)) -> what `PotentialFunction.forward` returns.
        parameters: of the potential: the tensors themselves, not copies.
        constants: numbers of the formulas, for instance bases of tensors.
        form: of neighbours.
    """

    graph: fx.GraphModule
    parameters: tuple[nn.Parameter, ...]
    constants: tuple[Tensor, ...]
    form: str


def scales_of(potential: Potential) -> Tensor:
    """(n_heads,) eV, float64."""
    return torch.stack([potential.heads[name].scale for name in potential.head_names])


def trace(potential: Potential, form: str, inputs: Sequence[Tensor]) -> TracedPotential:
    """Trace the potential once for all batches.

    Args:
        potential: with a `TraceableBackbone`; it must have predicted once, so that constants exist.
        form: of neighbours.
        inputs: `graph_inputs` of any batch; sizes become symbols, of which these are hints.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    function = PotentialFunction(potential, form)
    weights = dict(function.named_parameters())
    names = list(weights)

    def flat(*arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given = dict(zip(names, arguments, strict=False))
        return torch.func.functional_call(function, given, arguments[len(names) :])

    # equal sizes of one batch are no law: each gets a symbol of its own, and only operations may tie them
    mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False), allow_non_fake_inputs=True)

    def fake(tensor: Tensor, axes: Collection[int] = ()) -> Tensor:
        kinds = [DimDynamic.DYNAMIC if axis in axes else DimDynamic.STATIC for axis in range(tensor.dim())]
        return mode.from_tensor(tensor.detach(), symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds))

    # a product of a (n, 3, k) tensor with a matrix that learns is one matrix product, with any other a batch of n
    fixed = [*(fake(weight).requires_grad_(True) for weight in weights.values()), fake(scales_of(potential))]
    varying = [fake(tensor, axes) for tensor, axes in zip(inputs, varying_axes(inputs), strict=True)]
    with mode:
        graph = make_fx(flat, tracing_mode="real", _allow_non_fake_inputs=True)(*fixed, *varying)
    graph, constants = _with_constants_as_arguments(_without_detach(graph), len(weights))
    return TracedPotential(graph=graph, parameters=tuple(weights.values()), constants=constants, form=form)


def _without_detach(graph: fx.GraphModule) -> fx.GraphModule:
    """Autograd saves results behind `detach`; in a graph that is differentiated again, a derivative would end there."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _with_constants_as_arguments(graph: fx.GraphModule, position: int) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    """Tensors that the trace found in Python become arguments, from `position` on: torch.export loses them as attributes."""
    before = graph.graph.find_nodes(op="placeholder")[position]
    constants = []
    for name in sorted({node.target for node in graph.graph.find_nodes(op="get_attr")}):
        constants.append(getattr(graph, name).detach())
        delattr(graph, name)
        with graph.graph.inserting_before(before):
            argument = graph.graph.placeholder(name)
        for node in graph.graph.find_nodes(op="get_attr"):
            if node.target == name:
                node.replace_all_uses_with(argument)
                graph.graph.erase_node(node)
    graph.recompile()
    return graph, tuple(constants)
