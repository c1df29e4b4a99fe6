"""How long `import unipot` takes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
from benchmark_peers.conditions import REPOSITORY
from benchmark_peers.driver import say

PROGRAM = """
import time, sys
import torch
start = time.perf_counter()
import unipot
bare = time.perf_counter() - start
[getattr(unipot, name) for name in unipot.__all__]
print(bare, time.perf_counter() - start)
"""


def import_time(rounds: int = 7) -> dict[str, Any]:
    """Seconds of `import unipot` when torch is there already, and of looking up all it offers; medians of fresh processes."""
    say(f"import time: {rounds} fresh processes")
    command = [sys.executable, "-c", PROGRAM]
    lines = [subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout for _ in range(rounds + 1)]
    seconds = np.array([[float(x) for x in line.split()] for line in lines[1:]])  # the first fills the disk cache
    bare, everything = np.median(seconds, axis=0)
    return {"import_unipot_s": float(bare), "everything_s": float(everything), "rounds": rounds}
