"""`unipot package`: one head of a model, compiled ahead of time for simulations."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from unipot.errors import FileInTheWay
from unipot.workflows.settings.compose import require_complete


@dataclass(kw_only=True)
class PackageConfig:
    """Schema of `conf/package.yaml`, where every value is explained."""

    checkpoint: str = MISSING
    head: str | None = None
    out: str = MISSING
    device: str = MISSING
    dtype: str | None = None
    overwrite: bool = False


def package(cfg: PackageConfig) -> Path:
    """Compile and write `cfg.out`, and load it once to see that it gives the numbers of the model.

    Raises:
        ValueError: an option is wrong, or the model cannot be packaged; FileNotFoundError: there is no model.
        KeyError: the model has no such head.
        FileExistsError: `cfg.out` is there already and `cfg.overwrite` is false.
    """
    from unipot.workflows.inputs.structure_files import make_calculator
    from unipot.zoo.artifact import Artifact
    from unipot.zoo.card import read_card
    from unipot.zoo.compiled_package import load_package, save_package
    from unipot.zoo.locate import model_path

    require_complete(cfg, "package")
    if Path(cfg.out).exists() and not cfg.overwrite:
        raise FileInTheWay(f"{cfg.out} exists already; choose another name with out=, or allow it to be replaced with overwrite=true")
    started = time.perf_counter()
    # chooses head, device and dtype as simulations do
    calculator = make_calculator(cfg.checkpoint, cfg.head, cfg.device, cfg.dtype, skin=0.0)
    path = save_package(cfg.out, Artifact(potential=calculator.potential, card=read_card(model_path(cfg.checkpoint))), calculator.head)
    card = load_package(path, trusted=True).card  # just made here
    print(f"{path}: head {card['head']} ({card['level_of_theory']}), {card['dtype']} on {card['device']}")
    print(f"{path.stat().st_size / 1e6:.1f} MB in {time.perf_counter() - started:.0f} s; its numbers are those of the model")
    print(f"use it with: unipot md checkpoint={path} trusted=true structure=...")
    return path
