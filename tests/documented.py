"""What README.md and the pages in docs/ show: fenced blocks, commands, settings, links; checked in test_readme.py and test_docs.py."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

from unipot.cli import VERBS
from unipot.data.catalog.recipes import load_recipe
from unipot.resources import data_recipes_dir
from unipot.workflows.models.publication_settings import publication_of, settings_in
from unipot.workflows.settings.compose import load_config
from unipot.workflows.zoo import USAGE

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
#: pages whose blocks are checked
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "data_recipes" / "README.md"]
#: all of these blocks are commands; anything else is marked as text, yaml or python
SHELL = ("", "bash")
#: written by a script out of conf/, so that its inline code is that of comments
GENERATED = ROOT / "docs" / "configuration.md"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Words of every line, comments left out and continued lines joined."""
        words = (shlex.split(line, comments=True) for line in self.text.replace("\\\n", " ").splitlines())
        return [w for w in words if w] if self.language in SHELL else []

    @property
    def where(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Fenced blocks in their order."""
    found, start, language, lines = [], 0, "", []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```") and not start:
            start, language, lines = number, line[3:].strip(), []
        elif line.startswith("```"):
            found.append(Block(page, start, language, "\n".join(lines) + "\n"))
            start = 0
        elif start:
            lines.append(line)
    assert not start, f"{page}: the block of line {start} is not closed"
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """Inline code of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def write_titled_yaml(found: list[Block], folder: Path) -> None:
    """A YAML block whose first line is `# <name>.yaml...` becomes that file."""
    for block in found:
        title = re.match(r"# ([\w-]+\.yaml)\b", block.text)
        if block.language == "yaml" and title:
            (folder / title[1]).write_text(block.text)


def schema_of(verb: str) -> type:
    module, _, name = VERBS[verb].schema.partition(":")
    return getattr(importlib.import_module(module), name)


def without_variables(words: list[str]) -> list[str]:
    """A command without the environment variables in front of it."""
    return words[next((n for n, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words)) :]


def check_command(words: list[str]) -> None:
    """Raise where a command could not even begin: in the current folder, with the files that its page shows."""
    program, *rest = without_variables(words)
    if program == "unipot":
        check_unipot(rest)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = {extra for word in rest for extra in re.findall(r"\[([\w,]+)\]", word)}
        assert {extra for group in named for extra in group.split(",")} <= set(extras), f"{words}: an extra is not known"
    elif program == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), f"{words}: there is no module {rest[1]}"
    elif program in ("bash", "python", "sbatch"):
        script = ROOT / rest[0]
        assert script.is_file(), f"{words}: there is no script {rest[0]}"
        options = [word for word in rest if word.startswith("--")] if program == "python" else []
        assert [option for option in options if f'"{option}"' not in script.read_text()] == [], f"{words}: an option is not known"
    else:
        raise AssertionError(f"{words}: {program!r} is not a command that pages use; mark the block as text if it is not one")


def check_unipot(words: list[str]) -> None:
    """Compose the configuration of a `unipot` command against its schema."""
    verb, *rest = words
    if verb == "recipes":
        assert [name for name in rest if load_recipe(data_recipes_dir(), name) is None] == []
    elif verb == "models":
        assert rest == ["list"] or (rest[0] in ("show", "verify") and len(rest) == 2), f"{words}: models has list, show and verify"
    elif verb == "zoo":
        assert rest and rest[0] in USAGE, f"{words}: zoo has {', '.join(USAGE)}"
        if rest[0] == "publish":
            publication_of(settings_in(rest[1:])[1])
    else:
        assert verb in VERBS, f"{words}: the command is not known"
        kinds = VERBS[verb].kinds
        assert not kinds or rest[0] in kinds, f"{words}: one of {kinds} is missing"
        config = load_config(verb, schema_of(verb), rest[1:] if kinds else rest)
        if verb == "prepare" and config.recipe is not None:
            load_recipe(data_recipes_dir(), config.recipe).check_options(config.options)


def missing_imports(code: str) -> list[str]:
    """Names that a piece of Python imports and that are not there; a syntax error is raised."""
    missing = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            missing += [alias.name for alias in node.names if importlib.util.find_spec(alias.name) is None]
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            missing += [f"{node.module}.{alias.name}" for alias in node.names if not hasattr(module, alias.name)]
    return missing


def resolves(name: str) -> bool:
    """Whether a dotted name of Python is there."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and the site make them."""
    titles = [line.lstrip("# ") for line in prose(page).splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}
