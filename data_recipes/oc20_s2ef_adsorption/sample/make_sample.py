"""Writes the sample of `oc20_s2ef`: both recipes read the same files."""

import runpy
from pathlib import Path

SHARED = runpy.run_path(str(Path(__file__).parents[2] / "oc20_s2ef" / "sample" / "make_sample.py"))

if __name__ == "__main__":
    SHARED["write"](Path(__file__).parent / "s2ef_train_200K" / "s2ef_train_200K" / "s2ef_train_200K")
