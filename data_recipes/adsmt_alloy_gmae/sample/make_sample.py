"""Writes an unpacked `Alloy-GMAE.tar.gz` in the raw format, with the functions of the sample of `adsmt_ocd_gmae`."""

import runpy
from pathlib import Path

SHARED = runpy.run_path(str(Path(__file__).parents[2] / "adsmt_ocd_gmae" / "sample" / "make_sample.py"))
SYSTEMS = (("Cu", "CO", "C#O"), ("Pd", "OH", "[OH]"))


def systems() -> list[tuple]:
    """Slab, slab with adsorbate, adsorption energy and SMILES of the adsorbate."""
    return SHARED["systems"](SYSTEMS)


if __name__ == "__main__":
    records = [SHARED["graph"](*system) for system in systems()]
    SHARED["write"](Path(__file__).parent / "Alloy-GMAE" / "Alloy-GMAE" / "data.lmdb", [*records, SHARED["bare"](records[0])])
