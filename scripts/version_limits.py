"""Constraints for pip out of pyproject.toml: the oldest versions that it admits, or none but torch's for the newest.

    python scripts/version_limits.py oldest > limits.txt
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
#: extras that the short selection of tests needs
EXTRAS = ("compression",)


def requirements() -> list[Requirement]:
    """What is installed with unipot and the extras above."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name in EXTRAS for line in project["optional-dependencies"][name]]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


def oldest(requirement: Requirement) -> str:
    """The constraint that takes the lower limit of a requirement."""
    (version,) = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
    return f"{requirement.name}=={version}"


def torch_pin() -> str:
    """The line of scripts/constraints.txt."""
    return re.search(r"^torch==\S+$", (ROOT / "scripts" / "constraints.txt").read_text(), re.MULTILINE)[0]


def main() -> None:
    """Print constraints, or the names of all requirements as patterns of whole lines of `pip list`."""
    which = sys.argv[1] if len(sys.argv) == 2 else ""
    if which == "names":
        print("\n".join("^" + re.sub("[-_]", "[-_]", requirement.name) + "==" for requirement in requirements()))
    elif which in ("newest", "oldest"):
        print(torch_pin())
        if which == "oldest":
            print("\n".join(oldest(requirement) for requirement in requirements() if requirement.name != "torch"))
    else:
        sys.exit("usage: python scripts/version_limits.py newest|oldest|names")


if __name__ == "__main__":
    main()
