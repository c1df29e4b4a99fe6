"""Where commands write: the terminal, or a log file, in which tables need a width of their own."""

from __future__ import annotations

import os

from rich.console import Console

#: characters in a line of a log file
LOG_WIDTH = 140


def report_console(*, quiet: bool = False) -> Console:
    """The terminal; where there is none (a log file, a pipe), lines of 140 characters unless `COLUMNS` says otherwise."""
    console = Console(quiet=quiet)
    return console if console.is_terminal or os.environ.get("COLUMNS") else Console(quiet=quiet, width=LOG_WIDTH)
