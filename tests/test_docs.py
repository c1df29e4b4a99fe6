"""The pages in docs/: every command composes, every Python block resolves, every link leads somewhere, the site needs no network.

`UNIPOT_RUN_DOCS=1` runs every `unipot` command of every page in reduced form as well, which takes minutes.
"""

import functools
import os
import re
import shlex
import shutil
import sys

import pytest
import yaml

from tests.documented import (
    GENERATED,
    PAGES,
    README,
    ROOT,
    anchors,
    blocks,
    check_command,
    missing_imports,
    name_of,
    prose,
    resolves,
    schema_of,
    spans,
    write_titled_yaml,
)
from tests.documented_runs import FILES, run_block, write_data
from unipot.cli import VERBS
from unipot.workflows.models.publication_settings import SETTINGS as PUBLICATION
from unipot.workflows.settings import compose
from unipot.workflows.settings.compose import groups_for, load_config, options_of

sys.path.insert(0, str(ROOT / "scripts"))
from configuration_schema import find, type_words  # noqa: E402
from site_pages import ELSEWHERE, linked  # noqa: E402

BLOCKS = [block for page in PAGES for block in blocks(page)]
#: words of our own where the field has one
OUR_WORDS = re.compile(r"\b(lessons?|taught|yardsticks?|self-labell?ed|telling structures|first motion|known differences)\b", re.IGNORECASE)
#: arguments of Python and keys of files that look like settings
PYTHON = {("head", '"mine"'), ("invalid", "False"), ("converged", "F")}
#: of `unipot zoo diff`
ZOO_SETTINGS = {("structures", "mine.extxyz")}
#: trains at full length; tests/unit/test_api.py has its functions
PYTHON_PAGE = ROOT / "docs" / "python.md"
RUN = os.environ.get("UNIPOT_RUN_DOCS") == "1"


@pytest.fixture(scope="module")
def composed_once():
    """Hydra reads each combination of files once: composing is most of the time of these tests."""
    patch = pytest.MonkeyPatch()
    kept = functools.cache(lambda verb, choices: compose_real(verb, list(choices)))
    compose_real = compose._composed
    patch.setattr(compose, "_composed", lambda verb, choices: kept(verb, tuple(choices)).copy())
    yield
    patch.undo()


@pytest.fixture
def page_folder(tmp_path, monkeypatch):
    """The current folder, with the YAML files that pages show and a run that may be continued."""
    for page in PAGES:
        write_titled_yaml(blocks(page), tmp_path)
    run = tmp_path / "runs" / "base"
    run.mkdir(parents=True)
    words = ["run=runs/base", "datasets.a.path=a.extxyz", "datasets.a.level_of_theory=PBE"]
    (run / compose.RESOLVED_CONFIG).write_text(compose.to_yaml(load_config("pretrain", schema_of("pretrain"), words)))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("page_folder", "composed_once")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_could_begin(page):
    for block in blocks(page):
        for words in block.commands:
            try:
                check_command(words)
            except (ValueError, FileNotFoundError) as error:
                raise AssertionError(f"{block.where}: {shlex.join(words)}: {error}") from error


@pytest.fixture(scope="module")
def after_readme(tmp_path_factory):
    """A folder in which the commands of the README have been run."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_data(folder)
        for page in PAGES:
            write_titled_yaml(blocks(page), folder)
        for block in blocks(README):
            run_block(block)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not RUN, reason="takes minutes; UNIPOT_RUN_DOCS=1 runs the commands of all pages")
@pytest.mark.parametrize("page", [page for page in PAGES if page not in (README, GENERATED, PYTHON_PAGE)], ids=name_of)
def test_commands_of_a_page_run_in_its_order(page, after_readme, monkeypatch):
    monkeypatch.chdir(after_readme)
    monkeypatch.setenv("UNIPOT_RAW", str(after_readme / "cache"))
    for file in after_readme.glob("*.extxyz"):  # what simulations of another page wrote
        if file.stem not in FILES:
            file.unlink()
    for folder in after_readme.glob("*.unipot"):
        shutil.rmtree(folder)
    for block in blocks(page):
        run_block(block)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.where)
def test_every_python_block_compiles_and_finds_its_imports(block):
    assert missing_imports(block.text) == []


def test_every_block_says_what_it_is():
    assert [b.where for b in BLOCKS if b.language not in ("", "bash", "python", "yaml", "text")] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != GENERATED], ids=name_of)
def test_settings_in_the_text_are_known(page):
    """Inline code like `trainer=gpu trainer.devices=4`: each setting belongs to a command."""
    words = [word for span in spans(page) for word in span.split() if re.fullmatch(r"[a-z_][\w.]*=[^…<]+", word)]
    assert [word for word in words if not _is_setting(*word.split("=", 1))] == []


def _is_setting(key: str, value: str) -> bool:
    if key in ("config", "group", "key.path") or (key, value) in PYTHON:
        return True
    if key in PUBLICATION or (key, value) in ZOO_SETTINGS:
        return True
    for schema in (schema_of(verb) for verb in VERBS):
        if key in groups_for(schema):
            if value in [*options_of(key), "null"]:
                return True
        elif find(schema, tuple(key.split("."))) is not None:
            return True
        free = find(schema, (key.partition(".")[0],))
        if free is not None and free.entry is None and type_words(free.kind) == "mapping":  # its keys are those of data or recipes
            return True
    return False


@pytest.mark.parametrize("page", [page for page in PAGES if page != GENERATED], ids=name_of)
def test_names_and_files_in_the_text_are_there(page):
    code = spans(page)
    names = [span.removesuffix("()") for span in code if re.fullmatch(r"unipot(\.\w+)+(\(\))?", span)]
    files = [span for span in code if re.fullmatch(r"(scripts|conf|data_recipes|tests|unipot|docs|shared)/[\w./-]+\w", span)]
    assert [name for name in names if not resolves(name)] == []
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_environment_variables_are_those_that_are_read():
    files = [path for folder in ("unipot", "conf", "scripts", "tests") for path in (ROOT / folder).rglob("*") if path.is_file()]
    sources = [path for path in files if path.suffix in (".py", ".sh", ".yaml", ".sbatch")]
    read = {name for path in sources for name in re.findall(r"UNIPOT_[A-Z_]+", path.read_text(encoding="utf-8"))}
    shown = {name for page in PAGES for name in re.findall(r"UNIPOT_[A-Z_]+", page.read_text(encoding="utf-8"))}
    explained = set(re.findall(r"^\| `(UNIPOT_[A-Z_]+)`", (ROOT / "docs" / "install.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert shown - read == set()
    assert read - explained == set()


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "scripts").rglob("*.md")], ids=name_of)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", prose(page)):
        path, _, section = target.partition("#")
        file = page if not path else page.parent / path
        if not file.exists() or (section and section not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_message_that_is_shown_is_the_one_that_is_printed():
    (shown,) = re.findall(r"^unipot: error: (.+)$", (ROOT / "docs" / "messages.md").read_text(encoding="utf-8"), re.MULTILINE)
    with pytest.raises(ValueError) as error:
        load_config("pretrain", schema_of("pretrain"), ["run=a", "schedule.max_step=5"])
    assert str(error.value) == shown


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_words_are_those_of_the_field(page):
    assert OUR_WORDS.findall(page.read_text(encoding="utf-8")) == []


def _site() -> dict:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def test_every_page_is_in_the_menu_of_the_site():
    listed = [page for entry in _site()["nav"] for page in entry.values()]
    assert sorted(listed) == sorted([p.name for p in (ROOT / "docs").glob("*.md")] + [n for n in ELSEWHERE.values() if n.endswith(".md")])


def test_site_needs_no_network_to_read():
    site = _site()
    assert site["theme"]["font"] is False
    assert not site.get("extra_javascript")
    assert [name for name in site["extra_css"] if "//" in name or "url(" in (ROOT / "docs" / name).read_text()] == []
    assert "mermaid" not in "".join(b.language for b in BLOCKS)  # mkdocs-material would load it from a server


def test_site_links_to_files_elsewhere_by_their_page():
    assert linked("[a](../data_recipes/README.md)", "docs/data.md") == "[a](recipes.md)"
    assert linked("[a](../docs/results.md)", "scripts/RESULTS.md") == "[a](results.md)"
    assert linked("![a](front.png)", "scripts/benchmark_peers/README.md") == "![a](front.png)"


def test_site_shows_source_code_by_its_name():
    assert linked("see [`layer.py`](../unipot/models/native/layer.py)", "docs/backbone.md") == (
        "see `layer.py` (`unipot/models/native/layer.py`)"
    )
