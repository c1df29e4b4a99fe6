"""`unipot inspect`: what stores hold, as one HTML page and a short table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from unipot.data.store import Store
from unipot.errors import InputError
from unipot.reporting.console import report_console
from unipot.reporting.html import write_report
from unipot.reporting.store_page import Sampling, facts_table, page_sections
from unipot.reporting.tables import ReportTable

#: stores on one page; more colours are not told apart
MAX_STORES = 8
#: facts too long for a terminal
_ON_THE_PAGE_ONLY = ("title", "energy zero", "citation", "elements")


@dataclass(kw_only=True)
class InspectConfig:
    """`unipot inspect`: give `store`, or several `stores` to compare."""

    store: str | None = None
    stores: list[str] = field(default_factory=list)
    output: str = "inspect.html"
    n_structures: int = 2000  # read per store for distances
    n_points: int = 2000  # on the map per store
    n_images: int = 12  # structures drawn in all
    verify: bool = True  # read every file and record and compare with the checksums; about 3 s for each GB
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_structures", 1), ("n_points", 4), ("n_images", 0)):
            value = getattr(self, name)
            if isinstance(value, int) and value < least:
                raise InputError(f"{name} is {value}; give at least {least}")


def inspect(config: InspectConfig, console: Console | None = None) -> Path:
    """Write the page, print a table of the main facts and where the page is.

    Args:
        config: which stores, and how much of them is looked at.
        console: where the table goes; standard output by default.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: there is no store at a path.
        ValueError: no store is given, too many are, or one is damaged.
    """
    console = console or report_console()
    paths = ([config.store] if config.store else []) + list(config.stores)
    if not paths:
        raise InputError("unipot inspect needs store=<a store>, or stores=[<a store>,<another>] to compare")
    if len(paths) > MAX_STORES:
        raise InputError(f"unipot inspect shows at most {MAX_STORES} stores on one page, {len(paths)} are given; make several pages")
    stores = [Store(path) for path in paths]
    if config.verify:
        for store in stores:
            store.verify()
    names = names_of(stores)
    sampling = Sampling(n_structures=config.n_structures, n_points=config.n_points, n_images=config.n_images, seed=config.seed)
    total = sum(len(store) for store in stores)
    subtitle = f"{total:,} structures in {len(stores)} dataset{'s' if len(stores) > 1 else ''}; samples drawn with seed {config.seed}"
    facts = facts_table(stores, names)
    path = write_report(config.output, ", ".join(names), subtitle, page_sections(stores, names, sampling, facts))
    short = tuple(row for row in facts.rows if row[0] not in _ON_THE_PAGE_ONLY)
    console.print(ReportTable(title=facts.title, columns=facts.columns, rows=short).to_rich())
    console.print(f"page: {path}", highlight=False, soft_wrap=True)
    return path


def names_of(stores: list[Store]) -> list[str]:
    """One name per store; those that have the same are numbered, and the table of facts tells their folders."""
    names = [store.name for store in stores]
    return [name if names.count(name) == 1 else f"{name} ({names[: k + 1].count(name)})" for k, name in enumerate(names)]
