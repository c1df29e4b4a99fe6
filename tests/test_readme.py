"""README.md: short, with the two commands and the whole path, whose commands are run as they stand on tiny data.

Settings that shorten a run are appended (`tests/documented_runs.py`), nothing else is changed. `bash scripts/...` lines name scripts that
exist; the two scripts themselves take minutes, and one of them is running this test. Commands of all pages are checked in test_docs.py.
"""

import re

import pytest

from tests.documented import README, blocks, write_titled_yaml
from tests.documented_runs import run_block, write_data

BLOCKS = blocks(README)
COMMANDS = [words for block in BLOCKS for words in block.commands]


def test_readme_shows_the_whole_path():
    verbs = [words[1] for words in COMMANDS if words[0] == "unipot"]
    assert verbs == ["prepare", "pretrain", "finetune", "evaluate", "md"]


def test_readme_begins_with_the_two_commands():
    assert [" ".join(words) for words in COMMANDS[:2]] == ["bash scripts/quickstart.sh", "bash scripts/test.sh"]


def test_readme_can_be_read_in_minutes():
    assert len(README.read_text(encoding="utf-8").split()) <= 1200


def test_readme_has_one_table_of_results_and_says_where_the_rest_is():
    (results,) = re.findall(r"^## Results\n(.*?)^## ", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^\|[-:| ]+\|$", results, re.MULTILINE)) == 1
    assert "(docs/results.md)" in results


def test_whole_path_needs_at_most_40_lines_of_configuration():
    lines = [line for b in BLOCKS if b.language == "yaml" for line in b.text.splitlines() if line.strip() and not line.startswith("#")]
    assert 0 < len(lines) <= 40


@pytest.mark.timeout(600)
def test_commands_run_in_the_order_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    write_titled_yaml(BLOCKS, tmp_path)
    for block in BLOCKS:
        run_block(block)
    assert (tmp_path / "md.extxyz").is_file()
