"""What a command does with an exception that is no mistake of the user: says so, and keeps the traceback."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path

#: exit code of a command that failed by a defect of ours
EXIT_CODE = 70


def report_defect(error: BaseException, arguments: list[str]) -> int:
    """Write the traceback to a file, say in two lines what happened and where it is, and return the exit code.

    Args:
        error: what was raised.
        arguments: of the command line.
    """
    from unipot import __version__

    name = f"unipot-error-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    about = f"unipot {__version__}, Python {platform.python_version()}, {platform.platform()}\ncommand: unipot {' '.join(arguments)}\n\n"
    text = about + "".join(traceback.format_exception(error))
    kept = next((path for path in (Path.cwd() / name, Path(tempfile.gettempdir()) / name) if _written(path, text)), None)
    last = " ".join(str(error).split())[:300]
    print(f"unipot: defect: {type(error).__name__}: {last}", file=sys.stderr)
    where = f"the traceback is in {kept}; please report it with that file" if kept else f"the traceback:\n{text}"
    print(f"unipot: this is a mistake in unipot, not in your input; {where}", file=sys.stderr)
    return EXIT_CODE


def _written(path: Path, text: str) -> bool:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError:
        return False
    return True
