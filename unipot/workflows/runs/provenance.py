"""What numbers were made with: version, commit, packages, date."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import unipot


def versions() -> dict[str, str]:
    """Name -> version of what the numbers depend on; with the commit where the package is a checkout."""
    import numpy
    import torch

    found = {"unipot": unipot.__version__, "torch": str(torch.__version__), "numpy": numpy.__version__, "python": platform.python_version()}
    own = commit()
    return {**found, "commit": own} if own else found


def commit() -> str | None:
    """Short hash of the checkout that the package is in, with `+` where files differ from it; None where it is installed."""
    root = Path(unipot.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        name = _git(root, "rev-parse", "--short", "HEAD")
        return f"{name}+" if _git(root, "status", "--porcelain", "--untracked-files=no") else name
    except (OSError, subprocess.SubprocessError):  # no git on this machine, or a copy without its history
        return None


def today() -> str:
    """The date, UTC, as 2026-11-30."""
    return datetime.now(UTC).date().isoformat()


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
