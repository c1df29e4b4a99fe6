"""The README's commands, run as a reader would run them.

The comment before a fenced block says what a test does with it:

    <!-- readme:run -->            a bash block: run line by line in one scratch folder that all blocks share
    <!-- readme:check -->          a bash block too long to run: its unipot commands must be accepted, its scripts must exist
    <!-- readme:file my.yaml -->   any block: written to my.yaml in the scratch folder
    <!-- readme:python -->         a Python block: run as a script in the scratch folder
    <!-- readme:skip why -->       not tested, with the reason

Every bash, python and yaml block carries one. In the scratch folder `unipot` is this checkout's command, and
`data_recipes`, `scripts` and `conf` are those of the checkout.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"(?:<!-- readme:(?P<mark>[^\n]*?) -->\n+)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
MARKS = ("run", "check", "file", "python", "skip")


@dataclass(frozen=True)
class Block:
    """A fenced block of the README."""

    line: int
    language: str
    mark: str
    argument: str
    text: str


def _blocks() -> list[Block]:
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    found = []
    for match in BLOCK.finditer(text):
        mark, _, argument = (match["mark"] or "").partition(" ")
        found.append(Block(text.count("\n", 0, match.start()) + 1, match["language"], mark, argument.strip(), match["text"]))
    return found


BLOCKS = _blocks()


def _named(mark: str) -> list:
    return [pytest.param(b, id=f"line-{b.line}") for b in BLOCKS if b.mark == mark]


def _commands(block: Block) -> list[list[str]]:
    joined = block.text.replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in joined.splitlines() if shlex.split(line, comments=True)]


def test_readme_is_there_and_has_commands():
    assert README.exists(), "README.md is missing"
    assert any(b.mark in ("run", "check") for b in BLOCKS)


@pytest.mark.parametrize("block", [pytest.param(b, id=f"line-{b.line}") for b in BLOCKS if b.language in ("bash", "python", "yaml")])
def test_every_block_says_how_it_is_tested(block):
    assert block.mark in MARKS, f"README.md line {block.line}: put <!-- readme:run|check|file|python|skip --> before the block"
    assert block.argument or block.mark not in ("file", "skip")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A folder with `unipot` on its path, links to the checkout's folders, and the README's files written."""
    folder = tmp_path_factory.mktemp("readme")
    command = folder / "bin" / "unipot"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unipot.cli "$@"\n')
    command.chmod(0o755)
    for name in ("data_recipes", "scripts", "conf"):
        (folder / name).symlink_to(ROOT / name)
    for block in BLOCKS:
        if block.mark == "file":
            (folder / block.argument).write_text(block.text)
    return folder


def _environment(scratch: Path) -> dict[str, str]:
    path = os.pathsep.join([str(scratch / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}


def _run(words: list[str], scratch: Path, line: int) -> None:
    result = subprocess.run(words, cwd=scratch, env=_environment(scratch), capture_output=True, text=True, timeout=570)
    assert result.returncode == 0, f"README.md line {line}: exit code {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


@pytest.mark.parametrize("block", [pytest.param(b, id=f"line-{b.line}") for b in BLOCKS if b.mark in ("run", "python")])
def test_block_runs(block, scratch):
    """In the order of the README: later blocks may use what earlier ones made."""
    words = ["bash", "-euo", "pipefail", "-c", block.text] if block.mark == "run" else [sys.executable, "-c", block.text]
    _run(words, scratch, block.line)


@pytest.mark.parametrize("block", _named("check"))
def test_commands_are_accepted(block, scratch, monkeypatch):
    from unipot.cli import VERBS, _attribute, _joined_config
    from unipot.workflows.compose import load_config

    monkeypatch.chdir(scratch)
    for words in _commands(block):
        if words[0] == "unipot" and words[1] in VERBS and not {"-h", "--help"} & set(words):
            load_config(words[1], _attribute(VERBS[words[1]].schema), _joined_config(words[2:]))
        elif words[0] in ("bash", "sh", "python", "python3") and len(words) > 1 and not words[1].startswith("-"):
            assert (ROOT / words[1]).is_file(), f"README.md line {block.line}: {words[1]} does not exist"
