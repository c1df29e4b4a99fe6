"""Cards: every mistake is one sentence that names the file, the key and what is allowed."""

from __future__ import annotations

import copy
import datetime
import re
from pathlib import Path

import pytest
import yaml

from unipot.data.catalog.cards import RawFile, check_card, load_card, raw_files
from unipot.data.catalog.recipes import load_recipe
from unipot.resources import data_recipes_dir


@pytest.fixture
def card() -> dict:
    return yaml.safe_load((data_recipes_dir() / "_template" / "card.yaml").read_text())


def test_the_template_follows_the_schema(card):
    check_card(card, "card.yaml")


CASES = {
    "missing key": (lambda c: c.pop("licence"), "key 'licence' is missing"),
    "unknown key": (lambda c: c.update(license="MIT"), "key 'license' is not known (did you mean 'licence'?)"),
    "sentence as kind": (lambda c: c.update(energy_kind="total energy"), "energy_kind is 'total energy'; use one of: total, adsorption"),
    "raw unit": (lambda c: c["properties"]["energy"].update(unit="kcal/mol"), "properties of energy has unit 'kcal/mol'"),
    "unknown property": (lambda c: c["properties"].update(enthalpy={}), "properties has 'enthalpy', which is no property"),
    "no coverage": (lambda c: c["properties"]["forces"].pop("coverage"), "properties of forces lacks 'coverage'"),
    "boolean element": (lambda c: c.update(elements=["H", False]), "elements has False, which is no element symbol"),
    "short hash": (lambda c: c["sources"][0].update(sha256="abc"), "sources [0] sha256 is 'abc'; give 64 lower-case hexadecimal digits"),
    "number as md5": (lambda c: c["sources"][0].update(md5=123), "sources [0] md5 is 123; give 32 lower-case"),
    "outside": (lambda c: c["sources"][0].update(file="../x"), "sources [0] file is '../x'; give a path below the raw folder"),
    "scheme": (lambda c: c["sources"][0].update(urls=["ftp://a/b"]), "sources [0] urls has 'ftp://a/b'; a mirror begins with https://"),
    "from nowhere": (lambda c: c["sources"][0].update(urls=[]), "has neither urls nor access"),
    "key of a source": (lambda c: c["sources"][0].update(size=3), "sources [0] has the key 'size'; keys of a source are: file, urls"),
    "twice": (lambda c: c["sources"].append(c["sources"][0]), "sources [1] repeats the file 'frames.jsonl.gz'"),
    "bytes in words": (lambda c: c["sources"][0].update(bytes="3 GB"), "sources [0] bytes is '3 GB'; give a whole number"),
    "when": (lambda c: c["sources"][0].update(when={"split": "train"}), "when is {'split': 'train'}; give {option: [values]}"),
    "unpack": (lambda c: c["sources"][0].update(unpack="tar"), "unpack is for files that end in .tar"),
    "verified as list": (lambda c: c.update(verified=["all"]), "verified is ['all']; give true or false"),
    "nothing unverified": (lambda c: c.pop("unverified"), "verified is false; list under unverified"),
    "nothing checked": (lambda c: (c.pop("unverified"), c.update(verified=True)), "verified is true; list under checked"),
    "unknown threshold": (lambda c: c.update(quarantine={"max_forces": 3}), "max_forces is not known (did you mean 'max_force'?)"),
    "trap with a colon": (lambda c: c.update(known_traps=[{"a": "b"}]), "known_traps is [{'a': 'b'}]; give a list of texts"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_named_with_its_file_and_key(case, card):
    change, words = CASES[case]
    changed = copy.deepcopy(card)
    change(changed)
    with pytest.raises(ValueError) as raised:
        check_card(changed, "my/card.yaml")
    assert str(raised.value).startswith("my/card.yaml: ") and words in str(raised.value)


def test_a_recipe_without_card_or_with_a_broken_one_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="every recipe has a card"):
        load_card(tmp_path / "card.yaml")
    (tmp_path / "card.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_card(tmp_path / "card.yaml")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 10))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "with its aliases (*name) written out it has 1.2e+10 values"),
        ("licence: &a [1, *a]", "what begins in line 1 contains itself"),
        ("x: 1\nlicence: &a {b: [*a]}", "what begins in line 2 contains itself"),
        ("a: " + "[" * 5000, "not valid YAML|too deep"),
        ("a: " + "[" * 5000 + "]" * 5000, "too deep"),
        ("a: " + "x" * 3_000_000, "has 3,000,003 bytes, at most"),
        ("licence: !!timestamp now", "not valid YAML"),
        ("licence: 2024-99-99", "not valid YAML"),
        ("{[]: 1}", "not valid YAML"),
    ],
    ids=["bomb", "itself", "itself below", "open", "deep", "long", "tag", "date", "key"],
)
def test_a_card_that_would_take_the_memory_or_never_end_is_one_sentence(tmp_path, text, words):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.sub(r"([(*)+])", r"\\\1", words)) as raised:
        load_card(tmp_path / "card.yaml")
    assert str(raised.value).startswith(str(tmp_path)) and "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_a_card_in_another_encoding_is_one_sentence(tmp_path):
    (tmp_path / "card.yaml").write_bytes("title: x\nlicence: Universität".encode("latin-1"))
    with pytest.raises(ValueError, match="line 2 is not UTF-8 text"):
        load_card(tmp_path / "card.yaml")


def test_values_of_another_kind_are_one_sentence_or_allowed(card):
    """Every value of the card in turn is a list, a mapping, a text, a number, a day and nothing."""

    def places(value, above=()):
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield (*above, key)
            yield from places(value[key], (*above, key))

    for *above, last in places(card):
        for value in ([], {}, [[]], [{}], {"a": {}}, "x", -1, 1.5, True, datetime.date(2024, 1, 1), None):
            changed = copy.deepcopy(card)
            target = changed
            for key in above:
                target = target[key]
            target[last] = value
            try:
                check_card(changed, "card.yaml")
                raw_files(changed)
            except ValueError as error:
                assert str(error).startswith("card.yaml: ")


def test_raw_files_know_when_they_are_needed_and_what_they_unpack_to(card):
    card["sources"] = [
        {"file": "a/train.tar.gz", "urls": ["https://x.y/z"], "unpack": "tar", "when": {"split": ["train", "all"]}, "bytes": 5},
        {"file": "b.h5", "access": "ask"},
    ]
    check_card(card, "card.yaml")
    first, second = raw_files(card)
    assert first == RawFile(
        file="a/train.tar.gz", urls=("https://x.y/z",), size=5, unpack="tar", when={"split": ("train", "all")}
    )
    assert first.unpacked == "a/train"
    assert [first.needed_for({"split": split}) for split in ("train", "test", "all")] == [True, False, True]
    assert second.needed_for({"split": "test"}) and second.access == "ask"


def _recipe(folder: Path, card: dict, code: str) -> Path:
    (folder / "my_dataset").mkdir(parents=True)
    (folder / "my_dataset" / "card.yaml").write_text(yaml.safe_dump(card))
    (folder / "my_dataset" / "recipe.py").write_text(code)
    return folder


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def parts(raw): return ['a']", "has no function structures"),
        ("def structures(): yield", "sources lists files but recipe.py has no parts"),
        ("LABELS = ('energy',)\ndef structures(): yield", "LABELS is \\('energy',\\) but the card says \\('energy', 'forces'\\)"),
    ],
)
def test_card_and_code_must_agree(tmp_path, card, code, words):
    with pytest.raises(ValueError, match=words):
        load_recipe(_recipe(tmp_path, card, code), "my_dataset")


def test_when_names_an_option_of_the_code(tmp_path, card):
    card["sources"][0]["when"] = {"fold": [1]}
    code = "def parts(raw, split='train'): return ['a']\ndef structures(raw, part): yield"
    with pytest.raises(ValueError, match="when of 'frames.jsonl.gz' names the option 'fold'; recipe.py has: split"):
        load_recipe(_recipe(tmp_path, card, code), "my_dataset")


def test_parts_that_are_none_or_repeated_are_refused(tmp_path, card):
    code = "def parts(raw, n=0): return ['a'] * n\ndef structures(raw, part): yield"
    recipe = load_recipe(_recipe(tmp_path, card, code), "my_dataset")
    with pytest.raises(ValueError, match="finds nothing to read"):
        recipe.parts(tmp_path)
    with pytest.raises(ValueError, match="the part 'a' appears twice"):
        recipe.parts(tmp_path, n=2)
    assert recipe.parts(tmp_path, n=1) == ["a"]


SHARED = "def parts(raw, *, kind, n=1): return [f'{kind}.txt'] * n\ndef structures(raw, part): yield"


def _family(folder: Path, card: dict, **changes: dict) -> Path:
    """Two recipes: `my_dataset` has the program, and `other` names it; `changes` are of the cards."""
    first = {**card, "fixed_options": {"kind": "one"}, **changes.get("my_dataset", {})}
    other = {**card, "name": "other", "program": "my_dataset", "fixed_options": {"kind": "two"}, **changes.get("other", {})}
    (folder / "other").mkdir()
    (folder / "other" / "card.yaml").write_text(yaml.safe_dump({key: value for key, value in other.items() if value is not None}))
    return _recipe(folder, first, SHARED)


def test_recipes_of_one_program_differ_in_what_their_cards_fix(tmp_path, card):
    folder = _family(tmp_path, card)
    first, other = load_recipe(folder, "my_dataset"), load_recipe(folder, "other")
    assert (first.parts(tmp_path), other.parts(tmp_path)) == (["one.txt"], ["two.txt"])
    assert other.program == first.program and other.digest != first.digest


def test_fixed_options_are_not_chosen(tmp_path, card):
    recipe = load_recipe(_family(tmp_path, card), "other")
    assert recipe.option_defaults() == {"n": 1}
    with pytest.raises(ValueError, match="recipe 'other' has no option 'kind'; it has: n"):
        recipe.parts(tmp_path, kind="one")


def test_a_shared_program_is_found_beside_a_recipe_given_by_its_path(tmp_path, card):
    assert load_recipe(Path("elsewhere"), str(_family(tmp_path, card) / "other")).parts(tmp_path) == ["two.txt"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"program": "my_datset"}, r"program is 'my_datset', which is no recipe of .*did you mean 'my_dataset'\?\); name one that has it"),
        ({"program": "other"}, "program is 'other', which has no recipe.py of its own; name one that has it: my_dataset"),
        ({"program": "../my_dataset"}, "program is '../my_dataset'; give the name of another recipe of the same folder, without a path"),
        ({"program": None}, "other/recipe.py is missing; write it, or name under program"),
        ({"fixed_options": {"kin": 1}}, r"fixed_options names 'kin' \(did you mean 'kind'\?\); .*my_dataset/recipe.py has: kind, n"),
        ({"fixed_options": {"kind": ["one"]}}, "fixed_options is .*; give {option: text, number, or true or false}"),
    ],
)
def test_a_card_names_a_program_that_is_there(tmp_path, card, change, words):
    with pytest.raises(ValueError, match=words):
        load_recipe(_family(tmp_path, card, other=change), "other")


def test_a_recipe_has_one_program(tmp_path, card):
    folder = _family(tmp_path, card)
    (folder / "other" / "recipe.py").write_text(SHARED)
    with pytest.raises(ValueError, match="program is 'my_dataset' but .*other/recipe.py is there too; remove one of them"):
        load_recipe(folder, "other")
