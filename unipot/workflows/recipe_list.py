"""`unipot recipes`: the datasets that are one command away."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unipot.data.catalog.recipes import Recipe, load_recipe, recipe_names
from unipot.data.conversion.disk import in_words
from unipot.reporting.console import report_console
from unipot.resources import data_recipes_dir


def list_recipes(folder: Path | None = None, console: Console | None = None) -> None:
    """Print name, title, licence, labels, size and state of every recipe.

    Args:
        folder: that holds the recipes; the shipped ones by default.
        console: standard output by default.

    Raises:
        ValueError: a card does not follow the schema.
    """
    folder, console = folder or data_recipes_dir(), console or report_console()
    table = Table.grid(Column(no_wrap=True), Column(), padding=(0, 2))
    for name in recipe_names(folder):
        recipe = load_recipe(folder, name)
        state = "" if recipe.card["verified"] else "; not every fact is verified"
        facts = f"{', '.join(recipe.labels)}; {_size(recipe)}; licence: {recipe.card['licence']}{state}"
        table.add_row(Text(name, style="bold"), Text(recipe.card["title"]) + Text(f"\n{facts}", style="dim"))
    console.print(table)
    console.print("`unipot recipes <name>` shows a card; `unipot prepare recipe=<name>` downloads and converts", highlight=False)


def show_recipe(name: str, folder: Path | None = None, console: Console | None = None) -> None:
    """Print the card of a recipe, and its options.

    Raises:
        ValueError: there is no such recipe, or its card does not follow the schema.
    """
    folder, console = folder or data_recipes_dir(), console or report_console()
    recipe = load_recipe(folder, name)
    console.print(Text((recipe.folder / "card.yaml").read_text(encoding="utf-8").rstrip()), soft_wrap=True)
    options = ", ".join(f"options.{option}={default}" for option, default in recipe.option_defaults().items())
    console.print(Text(f"\noptions and their defaults: {options or 'none'}"), soft_wrap=True)


def _size(recipe: Recipe) -> str:
    """What a download with the default options brings."""
    needed = recipe.needed_files({})
    if not recipe.sources:
        return "computed, no download"
    known = [source.size for source in needed if source.size]
    if not known:
        return "size of the download not known"
    return ("" if len(known) == len(needed) else "at least ") + in_words(sum(known)) + " to download"
