"""Where commands write: the terminal, or a log file, in which tables need a width of their own."""

from __future__ import annotations

import os

from rich.console import Console

#: characters in a line of a log file
LOG_WIDTH = 140


def report_console(*, quiet: bool = False) -> Console:
    """The terminal; where there is none (a log file, a pipe), lines of 140 characters unless `COLUMNS` says otherwise.

    What is printed is shown as it is: square brackets in names of files, datasets and levels of theory are no markup.
    """
    console = Console(quiet=quiet, markup=False, emoji=False)
    if console.is_terminal or os.environ.get("COLUMNS"):
        return console
    return Console(quiet=quiet, markup=False, emoji=False, width=LOG_WIDTH)
