"""The README's commands work: every `unipot` line is run as it stands, on tiny data with the names the README uses.

Options that shorten a run are appended (`SHORTER`); nothing else is changed. A YAML block whose first line is
`# <name>.yaml...` is written to that file, a Python block is run as a script, `bash scripts/...` lines must name a script
that exists (the two scripts themselves take minutes, and one of them is running this test).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
SHORTER = {
    "pretrain": ["backbone=native-tiny", "schedule.max_steps=4", "schedule.warmup_steps=1", "trainer.workers=0"],
    "finetune": [
        "schedule.max_steps=4", "schedule.warmup_steps=1", "teacher.frames=10", "teacher.steps_before=1", "teacher.steps_between=1",
        "teacher.max_steps=2",
    ],
    "md": ["n_steps=5"],
    "relax": ["max_steps=2", "allow_unconverged=true"],
    "study": [
        "frames=[10]", "seeds=[0]", "strategies.finetune.steps=2", "strategies.from-scratch.steps=2", 'overrides=["teacher.method=none"]',
    ],
}
#: raw files of recipes that the README prepares are their samples, whose hashes are not those of the real files
RECIPE = ["verify=false"]
SHELL = ("", "bash", "sh", "shell", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block of the README."""

    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Words of every line, comments left out and continued lines joined."""
        words = (shlex.split(line, comments=True) for line in self.text.replace("\\\n", " ").splitlines())
        return [w for w in words if w]


def _blocks() -> list[Block]:
    found, start, language, lines = [], 0, "", []
    for number, line in enumerate(README.read_text(encoding="utf-8").splitlines() if README.exists() else [], start=1):
        if line.startswith("```") and not start:
            start, language, lines = number, line[3:].strip(), []
        elif line.startswith("```"):
            found.append(Block(start, language, "\n".join(lines) + "\n"))
            start = 0
        elif start:
            lines.append(line)
    return found


BLOCKS = _blocks()
UNIPOT = [(b, w) for b in BLOCKS if b.language in SHELL for w in b.commands if w[0] == "unipot" and not {"|", ">", "&&"} & set(w)]


def test_readme_shows_the_whole_path():
    assert README.exists(), "README.md is missing"
    verbs = [words[1] for _, words in UNIPOT]
    assert [v for v in ("prepare", "pretrain", "finetune", "evaluate", "md") if v not in verbs] == []


def test_whole_path_needs_at_most_40_lines_of_configuration():
    lines = [line for b in BLOCKS if b.language == "yaml" for line in b.text.splitlines() if line.strip() and not line.startswith("#")]
    assert 0 < len(lines) <= 40


def test_scripts_in_commands_and_links_exist():
    named = [w[1] for b in BLOCKS if b.language in SHELL for w in b.commands if w[0] in ("bash", "python", "sbatch") and "/" in w[1]]
    linked = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README.read_text(encoding="utf-8"))
    assert [path for path in {*named, *linked} if not (ROOT / path).exists()] == []
    assert "scripts/quickstart.sh" in named and "scripts/test.sh" in named


@pytest.mark.parametrize("page", sorted(str(p.relative_to(ROOT)) for f in ("scripts", "data_recipes") for p in (ROOT / f).rglob("*.md")))
def test_links_of_other_pages_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", text)
    sections = re.findall(r"\]\(#([^)]+)\)", text)
    titles = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines() if line.startswith("#")]
    assert [path for path in linked if not (ROOT / page).parent.joinpath(path).exists()] == []
    assert [name for name in sections if name not in titles] == []


def test_settings_named_in_the_text_are_accepted():
    """Inline code like `trainer=gpu trainer.devices=4` composes as options of `unipot pretrain`."""
    from unipot.workflows.settings.compose import load_config
    from unipot.workflows.settings.schema import PretrainConfig

    text = re.sub(r"^```.*?^```", "", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = [span.split() for span in re.findall(r"`([^`\n]+)`", text)]
    options = [
        span for span in spans if all(re.fullmatch(r"(trainer|logger|mixture|schedule|optimizer|loss)[\w.]*=[\w.-]+", w) for w in span)
    ]
    assert options
    for words in options:
        load_config("pretrain", PretrainConfig, ["run=unused", *words])


def _environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "COLUMNS": "120", "UNIPOT_RAW": str(folder / "raw")}
    return os.environ | own


def _call(words: list[str], folder: Path, line: int) -> None:
    result = subprocess.run(words, cwd=folder, env=_environment(folder), capture_output=True, text=True, timeout=300)
    output = f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    assert result.returncode == 0, f"README.md line {line}: {shlex.join(words)} ended with {result.returncode}\n{output}"


def _write_labelled_copper(path: Path, n_frames: int, seed: int) -> None:
    """Rattled Cu with EMT energy, forces and stress: stands in for every file the README names."""
    import numpy as np
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


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A folder with this checkout's `unipot` on the path, the README's YAML files, and tiny data under the README's names."""
    folder = tmp_path_factory.mktemp("readme")
    command = folder / "bin" / "unipot"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unipot.cli "$@"\n')
    command.chmod(0o755)
    sizes = {"oc20": 12, "spice": 12, "mptrj": 12, "mine": 20, "hse": 12, "gaps": 20, "test": 4, "slab": 1, "start": 1}
    for seed, (name, n_frames) in enumerate(sizes.items()):
        _write_labelled_copper(folder / f"{name}.extxyz", n_frames, seed)
    (folder / "start.extxyz").rename(folder / "start.xyz")
    for block in BLOCKS:
        title = re.match(r"# ([\w-]+\.yaml)\b", block.text)
        if block.language == "yaml" and title:
            (folder / title[1]).write_text(block.text)
    for name in {w.removeprefix("recipe=") for _, words in UNIPOT for w in words if w.startswith("recipe=")}:
        shutil.copytree(ROOT / "data_recipes" / name / "sample", folder / "raw" / name)
    made = {w.split("=", 1)[1] for _, words in UNIPOT if words[1] == "prepare" for w in words if w.startswith("out=")}
    for store, level in re.findall(r"path: (stores/\S+)\n\s+level_of_theory: (.+)", "".join(b.text for b in BLOCKS)):
        if store not in made:
            source = f"path={Path(store).stem}.extxyz"
            _call([str(command), "prepare", source, f"out={store}", f"level_of_theory='{level}'"], folder, 0)
    return folder


@pytest.mark.timeout(600)
def test_unipot_commands_run_in_the_order_of_the_readme(scratch):
    for block in BLOCKS:
        if block.language in SHELL:
            for _, words in ((b, w) for b, w in UNIPOT if b is block):
                own = RECIPE if any(w.startswith("recipe=") for w in words) else SHORTER.get(words[1], [])
                _call([*words, *own], scratch, block.line)
        elif block.language == "python":
            _call([sys.executable, "-c", block.text], scratch, block.line)
