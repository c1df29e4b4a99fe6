"""Packages: one head of a model compiled ahead of time, as one `.pt2` file for simulations.

A package holds the weights and card of the model as an artifact has them, and its graph as machine code (AOTInductor). The card is
read without running anything. **Loading a package runs the code in it**, so that a package is only loaded when the caller says that
it is to be trusted: make packages yourself, with `unipot package`, and share `.safetensors` files, which hold no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from unipot import __version__
from unipot.batch import AtomBatch, Predictions, collate
from unipot.errors import InputError
from unipot.models.compiled import SMALLEST, compiler_errors, missing_compiler, predict_through, reason_of
from unipot.models.core_repulsion import edge_vectors
from unipot.models.heads import HeadBank
from unipot.models.potential import Potential
from unipot.models.tracing import READ, VECTORS, TraceableBackbone, graph_inputs, scales_of, trace, varying_axes
from unipot.zoo.artifact import Artifact, load_artifact, save_artifact
from unipot.zoo.card import CHECKSUM, ArtifactError, card_of_text, checksum_of, require_as_written
from unipot.zoo.card_shape import require_kinds
from unipot.zoo.golden import TOLERANCES, example_structures, golden_values, largest_deviation

SUFFIX = ".pt2"
#: inside the archive, beside what torch writes
_FOLDER = "unipot"
_CARD, _MODEL = f"{_FOLDER}/package.json", f"{_FOLDER}/model.safetensors"
#: key of the card: SHA-256 over everything else in the archive
_CONTENTS = "contents_sha256"
#: of the operators and inputs that machine code expects: another version of it cannot be run, only made again
FORMAT_VERSION = 2


class PackagedPotential(Potential):
    """A potential of one head whose energies, forces and stress come from a package; it predicts, and cannot be trained.

    Args:
        potential: the model of the package.
        runner: its machine code.
        form: of neighbours.
        card: what the package says of itself.
        path: of the package. A copy, and one in another process, is made by loading it again.
    """

    def __init__(self, potential: Potential, runner: Any, form: str, card: dict[str, Any], path: Path) -> None:
        super().__init__(potential.backbone, potential.heads, potential.core_repulsion)
        self.run, self.form, self.card, self.path = _flat(runner), form, card, path.resolve()
        self.eval().requires_grad_(False)

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded_again, (str(self.path), checksum_of(self.card))

    def forward(
        self, batch: AtomBatch, properties: Any = ("energy", "forces"), create_graph: bool | None = None
    ) -> Predictions:
        """As `Potential.forward`.

        Raises:
            ValueError: a graph through the forces is wanted; see also `Potential.forward`.
        """
        if create_graph:
            raise InputError("a package predicts, it cannot be trained; load the .safetensors model it was made from")
        if batch.n_edges < SMALLEST or not {"forces", "stress"} & set(properties):
            return super().forward(batch, properties, create_graph=False)
        with torch.no_grad():
            return predict_through(self._run, self, self.form, batch, properties)

    def _run(self, inputs: list[Tensor]) -> list[Tensor]:
        """The machine code; in inference mode our kernels do not pass through autograd, which is a tenth of a small step."""
        with torch.inference_mode():
            outputs = self.run(inputs)
        return [output.clone() for output in outputs]  # ordinary tensors again


def _flat(runner: Any) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """The machine code of a list of tensors; torch's own call parses the description of its arguments every time.

    Machine code reads addresses: of a tensor that is expanded or strided it would read other numbers, so that it gets copies.
    """
    boxed = getattr(getattr(runner, "loader", None), "boxed_run", None)
    run = (lambda inputs: runner(*inputs)) if boxed is None else boxed
    return lambda inputs: run([tensor.contiguous() for tensor in inputs])


def save_package(path: str | Path, artifact: Artifact, head: str) -> Path:
    """Compile one head of a model and write it, in one step, to `path`.

    Takes minutes and needs a C++ compiler. The machine code fits processors like the one it was made on.

    Args:
        path: ends in `.pt2`.
        artifact: the model, in evaluation mode, in the dtype and on the device that the package is to have.
        head: that predicts.

    Returns:
        `path`.

    Raises:
        ValueError: `path` has another ending, the backbone cannot be traced, the head predicts forces directly, or there is no
            compiler, or it refuses the graph.
        KeyError: the model has no such head.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: the name of a package ends in {SUFFIX}")
    potential = _with_one_head(artifact.potential, head)
    if missing := missing_compiler(potential.device):
        raise InputError(f"{path}: no package can be made here: {missing}")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{SUFFIX}")
    model = path.with_name(f".{path.stem}.{os.getpid()}.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        form = _compile(potential, temporary)
        kept = ("name", "version", "licence", "licences", "ancestors", "citation", "datasets", "training", "references")
        save_artifact(model, potential, card={key: artifact.card[key] for key in kept if key in artifact.card})
        with zipfile.ZipFile(temporary, "a") as archive:
            root = archive.namelist()[0].partition("/")[0]
            archive.write(model, f"{root}/{_MODEL}")
        card = {**_card(potential, head, form), _CONTENTS: contents_hash(members_of(temporary))}
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(f"{root}/{_CARD}", json.dumps({**card, CHECKSUM: checksum_of(card)}, indent=1, allow_nan=False))
        os.replace(temporary, path)
    finally:
        for file in (temporary, model):
            file.unlink(missing_ok=True)
    return path


def _compile(potential: Potential, file: Path) -> str:
    """Write machine code to `file`; the form of neighbours that it takes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is deprecated.*")  # what torch uses of itself
        graph, form = _exported(potential)
        try:
            torch._inductor.aoti_compile_and_package(graph, package_path=str(file))
        except compiler_errors() as error:
            raise InputError(f"torch cannot compile this model here: {reason_of(error)}; simulate with the .safetensors model") from error
    return form


def read_package_card(path: str | Path) -> dict[str, Any]:
    """What a package says of itself; nothing in it is run.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ArtifactError: it is not a package of unipot, or is damaged.
    """
    path = Path(path)
    try:
        return _checked_card(members_of(path))
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error.__cause__


def model_in_package(path: str | Path) -> Artifact:
    """The plain model inside, verified as any artifact is.

    Raises:
        FileNotFoundError, ArtifactError: see `read_package_card` and `unipot.zoo.artifact.load_artifact`.
    """
    members = members_of(Path(path))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(_only(members, _MODEL))
        return load_artifact(file)


def load_package(path: str | Path, *, trusted: bool = False) -> PackagedPotential:
    """The potential of a package, checked against the golden values of its model. **This runs machine code out of the file.**

    Args:
        path: of the `.pt2` file.
        trusted: you made the package yourself, or trust whoever did as you would a program.

    Raises:
        ValueError: `trusted` is false, or the package is for a device that is not here.
        FileNotFoundError, ArtifactError: see `read_package_card`; or it was made by a unipot with other operators, or the numbers
            are not those of the model.
    """
    path = Path(path)
    if not trusted:
        raise InputError(
            f"{path} is a package, and loading it runs the machine code in it; if you made it yourself, say trusted=True (trusted=true "
            "for `unipot md`), else ask for the model as a .safetensors file, which holds no code"
        )
    card = read_package_card(path)
    if card.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} was made by unipot {card.get('unipot_version')} in format {card.get('format_version')}, this unipot runs format "
            f"{FORMAT_VERSION}; make it again from the .safetensors model: unipot package checkpoint=... out={path}"
        )
    if missing := [key for key in ("device", "neighbors", "golden") if key not in card]:
        raise ArtifactError(f"{path}: the card of the package has no {missing[0]}; make the package again")
    if card["device"] != "cpu" and not torch.cuda.is_available():
        raise InputError(f"{path} was compiled for {card['device']}, and torch finds no GPU here; make one with device=cpu")
    model = model_in_package(path).potential.to(card["device"])
    if obstacle := model.backbone.obstacle_to_form(card["neighbors"]):  # type: ignore[attr-defined]
        raise InputError(f"{path} cannot be run here: {obstacle}; or make a package on this machine")
    potential = PackagedPotential(model, _opened(path), card["neighbors"], card, path)
    try:
        deviation, where = largest_deviation(potential, card["golden"])
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}; make the package again") from error
    if not deviation <= TOLERANCES[potential.dtype]:
        raise ArtifactError(f"{path} does not give the numbers of its model ({where}: {deviation:.1e}); make it again on this machine")
    return potential


def _loaded_again(path: str, checksum: str) -> PackagedPotential:
    """The package that an object was pickled with: whoever unpickles it runs code in any case.

    Raises:
        FileNotFoundError, ArtifactError: it is gone, or another package is there now.
    """
    if checksum_of(read_package_card(path)) != checksum:
        raise ArtifactError(f"{path} is another package than when this calculator was pickled; make the calculator again")
    return load_package(path, trusted=True)


def members_of(path: Path) -> dict[str, bytes]:
    """What is in the archive, by name; as all of it is stored as it is, it cannot be larger than the file.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ArtifactError: it is no archive, or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; make a package with `unipot package checkpoint=... out={path}`")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise ArtifactError("the archive claims more than the file holds, so it is not a package of unipot")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, OverflowError, RuntimeError, struct.error, UnicodeError) as error:
        raise ArtifactError(f"the file is truncated or not a package ({error}); make it again") from error


def contents_hash(members: Mapping[str, bytes]) -> str:
    """SHA-256 over names and bytes of everything but the card."""
    digest = hashlib.sha256()
    for name in sorted(members):
        if not name.endswith(f"/{_CARD}"):
            digest.update(f"{name}\0{len(members[name])}\0".encode())
            digest.update(members[name])
    return digest.hexdigest()


def _checked_card(members: Mapping[str, bytes]) -> dict[str, Any]:
    """The card, if it and everything else are as they were written; packages of earlier versions say nothing of that."""
    try:
        card = card_of_text(_only(members, _CARD).decode())
    except UnicodeDecodeError as error:
        raise ArtifactError(f"its card is not text in UTF-8 ({error}); make it again") from error
    require_as_written(card)
    require_kinds(card)
    if _CONTENTS in card and contents_hash(members) != card[_CONTENTS]:
        raise ArtifactError("its contents do not have the SHA-256 that its card states; it is damaged, make it again")
    return card


def _only(members: Mapping[str, bytes], name: str) -> bytes:
    found = [content for member, content in members.items() if member.endswith(f"/{name}")]
    if len(found) != 1:
        raise ArtifactError(f"the archive has no {name}, so it is not a package of unipot")
    return found[0]


def _opened(path: Path) -> Any:
    """The machine code; from here on it runs."""
    try:
        return torch._inductor.aoti_load_package(str(path.resolve()))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{path}: torch cannot load the machine code ({reason}); make the package again on this machine") from error


def _with_one_head(potential: Potential, head: str) -> Potential:
    """The same modules, with one head only."""
    if not isinstance(potential.backbone, TraceableBackbone):
        raise InputError(f"backbone {potential.backbone.name!r} cannot be traced as one graph, so there can be no package of it")
    if potential.heads[head].direct_forces:
        raise InputError(f"head {head!r} predicts forces directly, which a package cannot hold; choose a conservative head")
    bank = HeadBank()
    bank.add(potential.heads[head])
    return Potential(potential.backbone, bank, potential.core_repulsion).eval()


class _WithWeights(nn.Module):
    """A graph that holds its weights."""

    def __init__(self, graph: fx.GraphModule, weights: list[Tensor]) -> None:
        super().__init__()
        self.graph = graph
        self.weights = nn.ParameterList(nn.Parameter(weight.detach().clone(), requires_grad=False) for weight in weights)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.graph(*self.weights, *inputs)


def _exported(potential: Potential) -> tuple[torch.export.ExportedProgram, str]:
    """The graph with weights inside and sizes that may vary, and the form of its neighbours."""
    from torch.fx.experimental import _config as symbols

    batch = _example(potential)
    potential(batch, create_graph=False)  # makes constants that are traced
    backbone = potential.backbone
    form = backbone.traced_form(batch)  # type: ignore[attr-defined]
    with torch.no_grad():
        inputs = graph_inputs(backbone, form, batch, edge_vectors(batch))  # type: ignore[arg-type]
    traced = trace(potential, form, inputs)
    module = _WithWeights(traced.graph, [*traced.parameters, *traced.constants, scales_of(potential)])
    shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in varying_axes(inputs))
    with symbols.patch(use_duck_shape=False), torch.no_grad():  # sizes that are equal here may differ in a simulation
        return torch.export.export(module, tuple(inputs), dynamic_shapes=(shapes,), strict=False), form


def _example(potential: Potential) -> AtomBatch:
    """Two structures of elements that the model knows; their sizes are hints only."""
    return collate(example_structures(potential), cutoff=potential.cutoff, dtype=potential.dtype).to(potential.device)


def _card(potential: Potential, name: str, form: str) -> dict[str, Any]:
    head = potential.heads[name]
    return {
        "format": "unipot-package",
        "format_version": FORMAT_VERSION,
        "unipot_version": __version__,
        "torch_version": torch.__version__,
        "head": name,
        "level_of_theory": head.level_of_theory,
        "energy_kind": head.energy_kind,
        "elements": head.reference.known_symbols().split(", "),
        "conditions": list(potential.backbone.conditions),
        "cutoff": potential.cutoff,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "device": potential.device.type,
        "units": {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³, positive under tension", "lengths": "Å"},
        "neighbors": form,
        "inputs": f"neighbours ({form}; vectors r_ij at place {VECTORS}), then {', '.join(READ)}; see unipot.models.tracing.graph_inputs",
        "outputs": "energy without composition references and core repulsion, forces, virials; one atom and one structure more than given",
        "golden": golden_values(potential, ()),
    }
