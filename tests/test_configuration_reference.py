"""docs/configuration.md is what its script writes, and leaves no setting unexplained."""

import sys
from pathlib import Path

import pytest

from unipot.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import write_configuration_reference as reference  # noqa: E402
from configuration_comments import Setting, read_comments  # noqa: E402
from configuration_schema import find, known_fields, meanings, reachable, schema_of, type_words  # noqa: E402


def test_page_is_what_the_script_writes():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run python scripts/write_configuration_reference.py"


@pytest.mark.parametrize("verb", VERBS)
def test_every_field_of_every_schema_has_a_meaning(verb):
    known = meanings()
    fields = {(field.owner, field.name) for schema in reachable(schema_of(verb)) for field in known_fields(schema)}
    assert sorted(f"{owner.__name__}.{name}" for owner, name in fields if not known.get((owner, name))) == []


def test_every_row_has_a_meaning():
    lines = reference.PAGE.read_text(encoding="utf-8").splitlines() + [""]
    starts = [n for n, line in enumerate(lines) if line.startswith("| setting |") and line.endswith("| meaning, unit, range |")]
    rows = [line for n in starts for line in lines[n + 2 : lines.index("", n)]]
    assert len(rows) > 300
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_command_and_every_option_has_a_table():
    text = reference.PAGE.read_text(encoding="utf-8")
    files = [path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")]
    titles = [f"### unipot {path.stem}\n" if path.parent == Path(".") else f"#### {path.parent}={path.stem}\n" for path in files]
    assert [title for title in titles if title not in text] == []


def test_comment_goes_on_in_its_column():
    (setting,) = read_comments("name: a   # one\n          # two\n").settings
    assert setting == Setting(("name",), "a", "one two")


def test_comment_in_another_column_is_none_of_the_setting():
    (setting,) = read_comments("name: a   # one\n# a title\n").settings
    assert setting.meaning == "one"


def test_comment_above_counts_where_there_is_none_behind():
    (first, second) = read_comments("\n# of both\nname: 1\nother: 2\n").settings
    assert (first.meaning, second.meaning) == ("of both", "")


def test_sign_inside_quotes_is_part_of_the_value():
    (setting,) = read_comments('title: "a # b"  # meaning\n').settings
    assert (setting.value, setting.meaning) == ('"a # b"', "meaning")


def test_sections_make_paths():
    assert [s.path for s in read_comments("a:\n  b:\n    c: 1\n  d: 2\ne: 3\n").settings] == [
        ("a",), ("a", "b"), ("a", "b", "c"), ("a", "d"), ("e",),
    ]  # fmt: skip


def test_commented_block_with_a_name_in_brackets_is_a_template():
    settings = read_comments("x: 1\n# sets:\n#   <name>:\n#     path: ???  # where\nsets: {}  # all\n").settings
    assert settings[3] == Setting(("sets", "<name>", "path"), "???", "where", template=True)
    assert not settings[4].template


def test_header_is_the_comment_at_the_top():
    assert read_comments("# @package _global_\n# first,\n# second\na: 1\n").header == "first, second"


def test_meaning_of_a_field_is_that_of_the_class_that_defines_it():
    """`also.<name>.n_train` is explained where `n_train` of `unipot finetune` is."""
    schema = schema_of("finetune")
    own, other = find(schema, ("n_train",)), find(schema, ("also", "<name>", "n_train"))
    assert (own.owner, own.name) == (other.owner, other.name)


def test_setting_that_the_schema_does_not_have_is_not_found():
    assert find(schema_of("md"), ("n_stepz",)) is None


@pytest.mark.parametrize(
    ("kind", "words"),
    [(str | None, "text or null"), (list[int], "list of integer"), (tuple[float, float], "list of number"), (dict[str, str], "mapping")],
)
def test_types_are_said_in_words(kind, words):
    assert type_words(kind) == words
