import io
import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from unipot.cli import main
from unipot.data.store import Store, StoreWriter
from unipot.reporting.html import Section
from unipot.reporting.store_page import Sampling, facts_table, formula, page_sections
from unipot.structure import Structure
from unipot.workflows.inspect import InspectConfig, inspect, names_of
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import PrepareConfig

CARD = {"licence": "CC-BY-4.0", "citation": ["A. Author (2020)"], "known_traps": ["Mind the <gap>."], "title": "Metals"}


@pytest.fixture(scope="module")
def stores(tmp_path_factory, toy_data):
    folder = tmp_path_factory.mktemp("stores")
    console = Console(file=io.StringIO())
    for name, path in toy_data.items():
        out = str(folder / f"{name}.unipot")
        prepare(PrepareConfig(path=str(path), out=out, level_of_theory=f"EMT-{name}", quarantine={"max_force": 4.0}), console)
    return {name: folder / f"{name}.unipot" for name in toy_data}


def page_of(tmp_path, **options):
    console = Console(file=io.StringIO(), width=160)
    path = inspect(InspectConfig(output=str(tmp_path / "page.html"), n_images=4, **options), console)
    return path.read_text(encoding="utf-8"), console.file.getvalue()


def test_one_page_compares_stores_and_reaches_for_nothing_outside(tmp_path, stores):
    page, printed = page_of(tmp_path, stores=[str(path) for path in stores.values()])
    for text in ("EMT-metals", "EMT-molecules", "Elements", "Nearest-neighbour distances: metals", "Overlap: dataset B covers"):
        assert text in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and page.count("<figure>") >= 9
    assert "page: " in printed and "EMT-metals" in printed and "with forces" in printed


def test_a_single_store_has_no_overlap(tmp_path, stores):
    page, _ = page_of(tmp_path, store=str(stores["metals"]))
    assert "Overlap: dataset B" not in page and "largest stress component, GPa" in page


def test_the_quarantine_is_summed_up_by_reason(stores):
    store = [Store(stores["metals"])]
    sections = page_sections(store, ["metals"], Sampling(n_images=0), facts_table(store, ["metals"]))
    quarantine = sections[0].tables[1]
    assert quarantine.rows[0][0] == "max_force" and quarantine.rows[0][2] == 4.0 and quarantine.rows[0][3] > 4.0
    n = sum(row[1] for row in quarantine.rows)
    assert n + len(Store(stores["metals"])) == 40


def test_licence_citation_and_traps_come_from_the_recipes_card(tmp_path):
    provenance = {"source": {"card": CARD}}
    with StoreWriter(tmp_path / "a.unipot", name="a", level_of_theory="PBE", labels=("energy",), provenance=provenance) as writer:
        writer.add(Structure(atomic_numbers=[2], positions=[[0, 0, 0]], labels={"energy": -1.0}))
    page, _ = page_of(tmp_path, store=str(tmp_path / "a.unipot"))
    assert "CC-BY-4.0" in page and "A. Author (2020)" in page and "Mind the &lt;gap&gt;." in page


@pytest.mark.parametrize("n", [1, 13])
def test_stores_of_few_lone_atoms_with_energies_only_have_a_page(tmp_path, n):
    name = "a-name-of-unusual-length-for-a-dataset"
    with StoreWriter(tmp_path / "a.unipot", name=name, level_of_theory="PBE", labels=("energy",)) as writer:
        writer.extend(Structure(atomic_numbers=[10], positions=[[0, 0, k]], labels={"energy": -1.0}) for k in range(n))
    page, _ = page_of(tmp_path, stores=[str(tmp_path / "a.unipot"), str(tmp_path / "a.unipot")])
    assert "Nearest-neighbour" not in page and "Coverage of structure space" in page


def test_what_is_empty_has_no_section(stores):
    store = Store(stores["molecules"])
    sections = page_sections([store], ["m"], Sampling(n_images=0), facts_table([store], ["m"]))
    assert [s.title for s in sections] == [
        "Facts", "Elements", "Distributions", "Nearest-neighbour distances", "Coverage of structure space"
    ]  # fmt: skip
    assert all(isinstance(s, Section) for s in sections)


def test_the_same_seed_gives_the_same_page(tmp_path, stores):
    pages = [page_of(tmp_path, store=str(stores["molecules"]), n_structures=10, n_points=20)[0] for _ in range(2)]
    assert pages[0] == pages[1]
    assert "sample of 10 of" in pages[0]


def test_stores_of_one_name_are_told_apart(stores):
    store = Store(stores["metals"])
    assert names_of([store, Store(stores["molecules"])]) == ["metals", "molecules"]
    assert names_of([store, store]) == ["metals (1)", "metals (2)"]


def test_formulas_follow_hill():
    structure = Structure(atomic_numbers=[8, 6, 1, 1, 29], positions=np.eye(5, 3))
    assert formula(structure) == "CH₂CuO"


def test_a_store_is_verified_unless_told_otherwise(tmp_path, stores):
    copy = tmp_path / "metals.unipot"
    shutil.copytree(stores["metals"], copy)
    shard = copy / "shards" / "00000.mdb"
    content = bytearray(shard.read_bytes())
    record = bytes(Store(copy).record(0))
    content[content.index(record) + len(record) - 1] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="00000.mdb does not match the recorded hash"):
        page_of(tmp_path, store=str(copy))
    with pytest.raises(ValueError, match="structure 0 .*its checksum differs"):  # what is read is looked at all the same
        page_of(tmp_path, store=str(copy), verify=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "unipot inspect needs store="),
        (["store=absent.unipot"], "absent.unipot: this is not a unipot store"),
        (["store=a", "n_structures=0"], "n_structures is 0; give at least 1"),
        (["stores=[a,b,c,d,e,f,g,h,i]"], "at most 8 stores on one page, 9 are given"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, capsys):
    assert main(["inspect", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error
