"""Commands of README.md and docs/ in reduced form: tiny data under the names that the pages use, settings that shorten a run."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np

from tests.documented import ROOT, Block, without_variables
from unipot.cli import main

#: settings appended to a command; what the command itself chooses stays, but for its length
SHORTER = {
    "pretrain": ["backbone=native-tiny", "schedule.max_steps=4", "schedule.warmup_steps=1", "trainer.workers=0", "trainer.threads=1"],
    "finetune": [
        "schedule.max_steps=4", "schedule.warmup_steps=1", "small_data=off", "trainer.threads=1", "teacher.method=none",
        "teacher.frames=10", "teacher.periodic_atoms=16", "teacher.steps_before=1", "teacher.steps_between=1",
        "teacher.max_steps=2", "teacher.own_steps=2",
    ],
    "md": ["n_steps=5"],
    "relax": ["max_steps=2", "allow_unconverged=true"],
    "study": [
        "frames=[10]", "seeds=[0]", "strategies.finetune.steps=2", "strategies.from-scratch.steps=2", 'overrides=["teacher.method=none"]',
    ],
}  # fmt: skip
#: raw files of recipes that pages prepare are their samples, whose hashes are not those of the real files
RECIPE = ["verify=false"]
#: frames of the files that pages name
FILES = {"oc20": 12, "spice": 12, "mptrj": 12, "mine": 20, "hse": 12, "gaps": 20, "test": 4, "slab": 1, "start": 1}


def write_data(folder: Path) -> None:
    """The files that pages name, the store that none of them makes, and raw files of the recipe that they prepare."""
    for seed, (name, n_frames) in enumerate(FILES.items()):
        _write_labelled_copper(folder / f"{name}.extxyz", n_frames, seed)
    (folder / "start.extxyz").rename(folder / "start.xyz")
    for raw in ("raw", "cache"):
        shutil.copytree(ROOT / "data_recipes" / "mptrj" / "sample", folder / raw / "mptrj")
    source, out = folder / "mptrj.extxyz", folder / "stores" / "mptrj.unipot"
    assert main(["prepare", f"path={source}", f"out={out}", "level_of_theory='PBE+U, VASP'"]) == 0


def run_block(block: Block) -> None:
    """Run the `unipot` commands of a block, or its Python, in the current folder. What needs a GPU is not run."""
    if block.language == "python":
        script = Path(f"block_{block.line}.py")
        script.write_text(block.text)
        runpy.run_path(str(script))
    for words in map(without_variables, block.commands):
        if words[0] == "unipot" and "trainer=gpu" not in words:
            code = main(reduced(words[1:]))
            assert code == 0, f"{block.where}: {shlex.join(words)} ended with {code}"


def reduced(words: list[str]) -> list[str]:
    """A command with what shortens it; what it says itself stays."""
    verb, *rest = words
    more = RECIPE if any(word.startswith("recipe=") for word in rest) else SHORTER.get(verb, [])
    if any(re.match(r"resume=(?!auto|never)", word) for word in rest):  # keeps its configuration, groups included
        return words
    said = {word.partition("=")[0] for word in rest} - {"n_steps", "max_steps"}
    return [*words, *(word for word in more if word.partition("=")[0] not in said)]


def _write_labelled_copper(path: Path, n_frames: int, seed: int) -> None:
    """Rattled Cu with EMT energy, forces and stress: stands in for every file that pages name."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames = []
    for k in range(n_frames):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += np.random.default_rng((seed, k)).normal(scale=0.1, size=(4, 3))
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        atoms.info |= {"weight": 1.0 + k % 2, "band_gap": 0.1 * atoms.get_potential_energy()}
        frames.append(atoms)
    write(path, frames)
