"""Writes an unpacked `is2res_train_trajectories` in the raw format: the systems of `oc20_s2ef`, one trajectory each."""

import lzma
import runpy
from pathlib import Path

SHARED = runpy.run_path(str(Path(__file__).parents[2] / "oc20_s2ef" / "sample" / "make_sample.py"))


def write(folder: Path) -> None:
    """`<name>/system.txt` lists the systems, `<name>/<name>/<system>.extxyz.xz` are their frames."""
    name = folder.name
    (folder / name / name).mkdir(parents=True, exist_ok=True)
    systems = SHARED["systems"]()
    (folder / name / "system.txt").write_text("".join(f"{system},{reference}\n" for system, (_, reference) in systems.items()))
    for system, (frames, _) in systems.items():
        with lzma.open(folder / name / name / f"{system}.extxyz.xz", "wt") as file:
            file.writelines(SHARED["text_of"](atoms) for atoms in frames)


if __name__ == "__main__":
    write(Path(__file__).parent / "is2res_train_trajectories")
