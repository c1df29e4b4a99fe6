"""`scripts/trace_configuration.py`: which functions receive the configuration, by every way that it can take."""

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
HEAD = """
from dataclasses import dataclass, replace
from functools import partial

@dataclass
class Section:
    x: int

@dataclass
class Config:
    section: Section
    sets: dict[str, int]
"""


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """Names of the rooms of a package that consists of `HEAD` and a text."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from configuration_trace.source import Source
    from configuration_trace.walk import Walk

    def found(text, **modules):
        (tmp_path / "pack").mkdir()
        for name, content in {"__init__": "", "command": HEAD + text, **modules}.items():
            (tmp_path / "pack" / f"{name}.py").write_text(content)
        return {room.partition(":")[2] for room in Walk(Source(tmp_path, "pack"), "pack.command:run").rooms()}

    return found


WAYS = {
    "itself": "def run(config: Config): f(config)",
    "by name": "def run(config: Config): f(c=config)",
    "a changed copy": "def run(config: Config): f(replace(config, section=None))",
    "under another name": "def run(config: Config):\n    own = config\n    f(own)",
    "in a list": "def run(config: Config): f([config, None])",
    "out of a mapping": "def run(config: Config):\n    for name, each in {'a': config}.items():\n        f(each)",
    "out of a pair": "def pair(): return 1, 2\ndef run(config: Config):\n    one, other = 1, config\n    f(other)",
    "bound before the call": "def run(config: Config):\n    call = partial(f, config)\n    call()",
    "through a function that is handed on": "def use(call: object, c: object): call(c)\ndef run(config: Config): use(f, config)",
    "in a branch": "def run(config: Config):\n    if config.section.x:\n        with x: f(config)",
    "by the annotation": "def made() -> Config: ...\ndef run(config: Config): f(made())",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_function_is_a_room_by_every_way_that_the_configuration_may_take(rooms, way):
    assert "f" in rooms("def f(c): pass\n" + WAYS[way])


@pytest.mark.parametrize(
    "call", ["config.section", "config.section.x", "len(config.sets)", "list(config.sets)", "config.sets.items()", "one", "type(config)"]
)
def test_a_section_or_a_value_is_not_the_configuration(rooms, call):
    assert "f" not in rooms(f"def f(c): pass\ndef run(config: Config):\n    one, other = 1, config\n    f({call})")


def test_an_object_that_holds_the_configuration_counts_and_so_do_its_methods(rooms):
    text = """
class Context:
    def __init__(self, config): self.config = config
    def work(self): f(self.config.section)
    @property
    def short(self): return 1

def f(section): pass
def g(context): return context.short
def unused(context): pass

def run(config: Config):
    context = Context(config)
    context.work()
    g(context)
"""
    assert rooms(text) == {"run", "Context.__init__", "Context.work", "Context.short", "g"}


def test_functions_of_other_modules_are_found_through_imports(rooms):
    other = "def f(c): g(c)\ndef g(c): pass\ndef h(c): pass"
    assert rooms("from pack.other import f as elsewhere\ndef run(config: Config): elsewhere(config)", other=other) == {"run", "f", "g"}


def test_the_command_prints_how_many_rooms_receive_the_configuration_itself(rooms, tmp_path, capsys):
    holder = "@dataclass\nclass Holder:\n    c: Config\ndef f(c): pass\ndef g(h): pass\n"
    rooms(holder + "def run(config: Config):\n    f(config)\n    g(Holder(config))")
    import trace_configuration

    assert trace_configuration.main(["--root", str(tmp_path), "--start", "pack.command:run", "--list"]) == 0
    out = capsys.readouterr().out
    assert "3 rooms in 2 stays" in out and "2 rooms receive Config itself, 1 only an object that holds it" in out
    assert "pack.command:g (h)\n    from pack.command:run" in out
