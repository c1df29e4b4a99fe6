"""`CompiledPotential`: a potential through one compiled graph, and through the plain one where that is not possible."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from unipot.batch import AtomBatch, Predictions
from unipot.models.core_repulsion import edge_vectors
from unipot.models.derivatives import forces_and_stress, make_deformable, parameter_gradients, stress_of
from unipot.models.potential import Potential
from unipot.models.tracing import TraceableBackbone, graph_inputs, scales_of, trace
from unipot.properties import property_named

#: largest deviation from the plain model on the first batch, relative to the largest number of its kind. Orders of summation
#: differ: 1e-7 to 1e-6 was seen in float32, 1e-16 to 1e-14 in float64
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9}
#: edges of a batch that goes through a graph: sizes 0 and 1 are special for compilers
SMALLEST = 2


class CompiledPotential:
    """The same predictions as a `Potential`, with energies, forces and stress out of one graph compiled by torch.compile.

    Called as the potential is. Sizes are symbols of the graph, so that batches of any sizes use the same one. There is one
    graph for training and one for prediction, each compiled at its first use: that takes minutes once, and seconds in later
    processes, which find it in torch's cache. Weights are read from the potential at every call and gradients reach its own
    parameters; it is neither copied nor changed, nor is its state dict.

    What the graph does not hold is computed as always: the checks of a batch, composition references, and core repulsion; so
    are batches without edges. Gradients of one prediction can be taken once: `retain_graph` is an error of torch's.

    At its first use each graph is compared with the plain model on the batch at hand: energies, forces, stress and (for
    training) gradients of parameters. Where the compiler refuses, there is none, the backbone cannot be traced, a head has forces
    without an energy, or the numbers deviate, one warning says why, and everything is predicted by the plain model from then on. An
    error in unipot's own code is raised.

    Args:
        potential: of any number of heads.
        backend: of torch.compile. `aot_eager` compiles nothing and runs the same graph, in seconds: for tests.

    Attributes:
        n_graphs: compiled so far.
        seconds: spent on tracing, compiling and comparing.
        deviation: largest relative deviation from the plain model that the comparisons found.
        reason: why the plain model predicts, or None.

    Example:
        >>> fast = CompiledPotential(potential)  # doctest: +SKIP
        >>> fast(batch, ("energy", "forces")).forces  # doctest: +SKIP
    """

    def __init__(self, potential: Potential, *, backend: str = "inductor") -> None:
        self.potential, self.backend = potential, backend
        self.n_graphs, self.seconds, self.deviation = 0, 0.0, 0.0
        self.reason: str | None = None
        self._function: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None
        self._parameters: tuple[torch.nn.Parameter, ...] = ()
        self._constants: tuple[Tensor, ...] = ()
        self._traced_for: tuple[Any, ...] = ()
        self._checked: set[bool] = set()

    def __call__(
        self, batch: AtomBatch, properties: Collection[str] = ("energy", "forces"), create_graph: bool | None = None
    ) -> Predictions:
        """Predict, see `Potential.forward`; only energies, which need no derivative, come from the plain model.

        Raises:
            ValueError, KeyError: see `Potential.forward`.
        """
        for name in properties:
            property_named(name)
        create_graph = self.potential.training if create_graph is None else create_graph
        wanted = tuple(sorted({"energy", *properties}))
        # whether a batch goes through the graph may depend on the batch alone: a resumed run must repeat the numbers of the first
        if wanted == ("energy",) or self.reason is not None or batch.n_edges < SMALLEST:
            return self.potential(batch, properties, create_graph)
        if create_graph not in self._checked or self._traced_for != self._state():
            return self._first_prediction(batch, wanted, create_graph)
        return self._predict(batch, wanted, create_graph)

    def sentence(self) -> str:
        """What was compiled, for the terminal."""
        if self.reason is not None:
            return f"not compiled: {self.reason}"
        return f"compiled: {self.n_graphs} graph(s) in {self.seconds:.0f} s, largest deviation from the plain model {self.deviation:.1e}"

    def _first_prediction(self, batch: AtomBatch, wanted: tuple[str, ...], create_graph: bool) -> Predictions:
        """Compile, compare with the plain model, and predict by what is to be used."""
        plain = self.potential(batch, wanted, create_graph)  # refuses what is wrong with the batch; makes constants that are traced
        started = time.perf_counter()
        self.reason = self._obstacle(batch)
        if self.reason is None:
            self._trace(batch)
            try:
                self.reason = self._compile(batch, plain, wanted, create_graph)
            except compiler_errors() as error:
                self.reason = reason_of(error)
        self.seconds += time.perf_counter() - started
        if self.reason is not None:
            warnings.warn(f"the model is not compiled, and predicts as before: {self.reason}", stacklevel=3)
            return plain
        return self._predict(batch, wanted, create_graph)

    def _obstacle(self, batch: AtomBatch) -> str | None:
        """What is known to stand against compiling, in words."""
        if not isinstance(self.potential.backbone, TraceableBackbone):
            return f"backbone {self.potential.backbone.name!r} cannot be traced as one graph"
        if direct := [name for name in self.potential.head_names if self.potential.heads[name].direct_forces]:
            return f"head {direct[0]!r} predicts forces directly, which are not part of the graph"
        return missing_compiler(batch.positions.device) if self.backend == "inductor" else None

    def _trace(self, batch: AtomBatch) -> None:
        """Make the graph, unless there is one; nothing but our own code can fail here."""
        if self._traced_for == self._state():
            return
        backbone, form = self.potential.backbone, self._form(batch)
        traced = trace(self.potential, form, graph_inputs(backbone, form, batch, _vectors(batch)))  # type: ignore[arg-type]
        self._parameters, self._constants = traced.parameters, traced.constants
        self._function = torch.compile(traced.graph, backend=self._backend, fullgraph=True, dynamic=True)
        self._traced_for, self._checked = self._state(), set()

    def _compile(self, batch: AtomBatch, plain: Predictions, wanted: tuple[str, ...], create_graph: bool) -> str | None:
        """Compile by predicting, and compare; the reason why not to use it, or None."""
        from torch.fx.experimental import _config as symbols

        with symbols.patch(use_duck_shape=False):  # sizes that are equal in this batch differ in the next
            compiled = self._predict(batch, wanted, create_graph)
        deviation = self._deviation(batch, plain, compiled, wanted, create_graph)
        if not deviation <= TOLERANCES[self.potential.dtype]:
            return f"it deviates by {deviation:.1e} of the largest number, allowed are {TOLERANCES[self.potential.dtype]:.0e}"
        self.deviation = max(self.deviation, deviation)
        self._checked.add(create_graph)
        return None

    def _backend(self, graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        from torch._dynamo.backends.registry import lookup_backend

        self.n_graphs += 1
        return lookup_backend(self.backend)(graph, inputs)

    def _state(self) -> tuple[Any, ...]:
        """What a graph is traced for."""
        return self.potential.head_names, self.potential.dtype, self.potential.device

    def _form(self, batch: AtomBatch) -> str:
        return self.potential.backbone.traced_form(batch)  # type: ignore[attr-defined]

    def _predict(self, batch: AtomBatch, wanted: tuple[str, ...], create_graph: bool) -> Predictions:
        function = cast(Callable[..., Any], self._function)
        graph = lambda inputs: function(*self._parameters, *self._constants, scales_of(self.potential), *inputs)  # noqa: E731
        with torch.set_grad_enabled(create_graph):
            return predict_through(graph, self.potential, self._form(batch), batch, wanted)

    def _deviation(
        self, batch: AtomBatch, plain: Predictions, compiled: Predictions, wanted: tuple[str, ...], create_graph: bool
    ) -> float:
        """Largest deviation relative to the largest number of its kind: energies without references, forces, stress, gradients."""
        references = batch.sum_over_atoms(self.potential.heads.references(batch))
        pairs = [(plain.energy - references, compiled.energy - references)]
        pairs += [(getattr(plain, name), getattr(compiled, name)) for name in wanted if name != "energy"]
        deviations = [_relative(a, b) for a, b in pairs]
        learning = [p for p in self._parameters if p.requires_grad]
        if create_graph and learning:
            first = parameter_gradients([a for a, _ in pairs], learning, retain_graph=True)
            second = parameter_gradients([b for _, b in pairs], learning, retain_graph=False)
            # a gradient that is next to nothing is made of rounding errors
            floor = 1e-3 * max(float(gradient.abs().max()) for gradient in first)
            deviations += [_relative(a, b, floor) for a, b in zip(first, second, strict=True)]
        return max(deviations)


def missing_compiler(device: torch.device) -> str | None:
    """What torch lacks to compile for `device`, as a sentence; None where nothing is known to be missing."""
    if not torch._dynamo.is_dynamo_supported():
        return "this torch cannot compile with this version of Python"
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "there is no C++ compiler; install one, for instance with `apt install g++`"
    return None


def compiler_errors() -> tuple[type[BaseException], ...]:
    """What torch raises where it cannot compile a graph, or lacks the memory to run it. No error of ours is among them."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor import exc

    inductor = (exc.OperatorIssue, exc.SubgraphLoweringException, exc.InvalidCxxCompiler, exc.CppWrapperCodegenError, exc.CppCompileError)
    return TorchDynamoException, *inductor, torch.OutOfMemoryError


def reason_of(error: BaseException) -> str:
    """Why the compiler refuses, in one line.

    Raises:
        BaseException: the error inside `error`, where unipot's own code raised it: torch wraps that as it wraps its own.
    """
    inner = getattr(error, "inner_exception", None) or error
    trace = inner.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if inner is not error and trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "unipot":
        raise inner
    return f"{type(inner).__name__}: {(str(inner).strip() or 'no message').splitlines()[0]}"


def predict_through(
    graph: Callable[[list[Tensor]], Sequence[Tensor]], potential: Potential, form: str, batch: AtomBatch, wanted: Collection[str]
) -> Predictions:
    """Predictions with energies, forces and virials out of a graph, and the rest as in the plain model.

    Args:
        graph: of `unipot.models.tracing`, as a function of `graph_inputs`.
        potential: what it was traced from.
        form: of neighbours.
        batch: as for `Potential.forward`.
        wanted: properties; energy always comes.

    Raises:
        ValueError: see `Potential.forward`.
    """
    vectors = _vectors(batch)
    lengths = potential.checked_lengths(batch, torch.linalg.vector_norm(vectors, dim=1))
    potential.backbone.require_states(batch)  # type: ignore[attr-defined]
    energy, forces, virials = graph(graph_inputs(potential.backbone, form, batch, vectors))  # type: ignore[arg-type]
    energy = energy[: batch.n_structures] + batch.sum_over_atoms(potential.heads.references(batch))
    forces = forces[: batch.n_atoms]
    stress = stress_of(virials[: batch.n_structures], batch) if "stress" in wanted else None
    core = None if potential.core_repulsion is None else _core_repulsion(potential, batch, lengths, stress is not None)
    if core is not None:
        energy, forces = energy + core[0], forces + core[1]
        stress = None if stress is None else stress + core[2]
    return Predictions(energy=energy, forces=forces, stress=stress)


def _core_repulsion(potential: Potential, batch: AtomBatch, lengths: Tensor, stress: bool) -> tuple[Tensor, Tensor, Any] | None:
    """Energies, forces and stress of pairs that are very close, None if there are none; no parameter stands in them."""
    if len(potential.core_repulsion.close_pairs(batch, lengths, potential.cutoff)[0]) == 0:  # type: ignore[union-attr]
        return None
    with torch.enable_grad():
        geometry = make_deformable(batch, stress=stress)
        energy = batch.sum_over_atoms(potential.core_repulsion(geometry.batch, lengths, potential.cutoff))  # type: ignore[misc]
        return energy.detach(), *forces_and_stress(energy, geometry, create_graph=False)


def _relative(expected: Tensor, found: Tensor, floor: float = 1e-30) -> float:
    """Largest deviation over the largest number; not finite where either is not."""
    return float((expected - found).detach().abs().max()) / max(float(expected.detach().abs().max()), floor)


def _vectors(batch: AtomBatch) -> Tensor:
    with torch.no_grad():
        return edge_vectors(batch)
