"""Frames whose electrons did not converge are told from the outputs of VASP, Quantum ESPRESSO and GPAW, and are no labels.

The outputs are written here, as short as ASE's readers take them; frame k has the energy -k - 1 eV.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from unipot.data.labels import LabelSource, SkippedItem
from unipot.data.readers.ase_files import read_ase_file
from unipot.data.readers.electronic_convergence import unconverged_frames
from unipot.structure import Structure
from unipot.workflows.prepare import prepare
from unipot.workflows.settings.schema import PrepareConfig

ENERGY = {"energy": LabelSource(key="energy", unit="eV")}
NELM = 6
_CELL = ["  3.0 0.0 0.0  0.3 0.0 0.0", "  0.0 3.0 0.0  0.0 0.3 0.0", "  0.0 0.0 3.0  0.0 0.0 0.3"]
_NO_BANDS = "     Number of k-points >= 100: set verbosity='high' to print the bands."


def vasprun(cycles: Sequence[int]) -> str:
    """One `calculation` for each number of cycles; with NELM of them the energy still changes, with fewer it does not."""
    cell = "<varray name='basis'><v>3 0 0</v><v>0 3 0</v><v>0 0 3</v></varray>"
    positions = "<varray name='positions'><v>0 0 0</v><v>.5 .5 .5</v></varray>"
    atoms = "<set><rc><c>Cu</c><c>1</c></rc><rc><c>Cu</c><c>1</c></rc></set>"

    def energies(value: float) -> str:
        return f"<energy><i name='e_fr_energy'>{value}</i><i name='e_wo_entrp'>{value}</i><i name='e_0_energy'>{value}</i></energy>"

    steps = []
    for k, n in enumerate(cycles):
        offsets = [0.1 * (-1) ** j if n >= NELM else 0.0 for j in range(n)]
        scf = "".join(f"<scstep>{energies(-k - 1 + offset)}</scstep>" for offset in offsets)
        structure = f"<structure><crystal>{cell}</crystal>{positions}</structure>"
        forces = "<varray name='forces'><v>0 0 0</v><v>0 0 0</v></varray>"
        steps.append(f"<calculation>{scf}{structure}{forces}{energies(-k - 1)}</calculation>")
    return (
        "<?xml version='1.0'?><modeling><kpoints><varray name='kpointlist'><v>0 0 0</v></varray><varray name='weights'><v>1</v></varray>"
        f"</kpoints><parameters><separator name='electronic'><i name='EDIFF'>1e-5</i><i type='int' name='NELM'>{NELM}</i></separator>"
        f"</parameters><atominfo><array name='atoms'>{atoms}</array></atominfo>"
        f"<structure name='initialpos'><crystal>{cell}</crystal>{positions}</structure>{''.join(steps)}</modeling>"
    )


def outcar(converged: Sequence[bool], said: bool = False) -> str:
    """`said`: VASP 6 writes a line where the limit was reached, earlier versions write nothing."""
    lines = [" POTCAR:    PAW_PBE Cu 05Jan2001", " POTCAR:    PAW_PBE Cu 05Jan2001", f"   NELM   =      {NELM};   NELMIN=  2; NELMDL= -5"]
    lines += ["   ions per type =               2"]
    for k, good in enumerate(converged):
        lines += [f"----- Iteration    {k + 1}(   {j + 1})  -----" for j in range(3 if good else NELM)]
        lines += ["---- aborting loop because EDIFF is reached ----"] if good else []
        lines += ["---- aborting loop EDIFF was not reached (unconverged)  ----"] if said and not good else []
        lines += ["      direct lattice vectors                 reciprocal lattice vectors", *_CELL]
        lines += [" POSITION                                       TOTAL-FORCE (eV/Angst)", " ---"]
        lines += ["  0.0 0.0 0.0  0.0 0.0 0.0", "  1.5 1.5 1.5  0.0 0.0 0.0", " ---"]
        lines += ["  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)", "  ---", f"  free  energy   TOTEN  =  {-k - 1:.1f} eV", ""]
        lines += [f"  energy  without entropy=  {-k - 1:.1f}  energy(sigma->0) =  {-k - 1:.1f}"]
    return "\n".join(lines) + "\n"


def espresso(converged: Sequence[bool]) -> str:
    """A run of pw.x in several configurations; where the cycles did not end, there are forces and no total energy."""
    head = """     Program PWSCF v.7.0 starts on  1Jan2024 at  0: 0: 0
     number of atoms/cell      =            2
     celldm(1)=   5.669178  celldm(2)=   0.000000
     crystal axes: (cart. coord. in units of alat)
               a(1) = (   1.000000   0.000000   0.000000 )
               a(2) = (   0.000000   1.000000   0.000000 )
               a(3) = (   0.000000   0.000000   1.000000 )
     site n.     atom                  positions (alat units)
         1           Cu  tau(   1) = (   0.0000000   0.0000000   0.0000000  )
         2           Cu  tau(   2) = (   0.5000000   0.5000000   0.5000000  )
"""
    card = "ATOMIC_POSITIONS (angstrom)\nCu 0.0 0.0 0.0\nCu 1.5 1.5 1.5\n\n"
    forces = "     Forces acting on atoms (cartesian axes, Ry/au):\n\n" + "".join(
        f"     atom    {k} type  1   force =     0.0    0.0    0.0\n" for k in (1, 2)
    )
    parts = []
    for k, good in enumerate(converged):
        energy = f"!    total energy              =  {(-k - 1) / 13.605693122994:.10f} Ry\n" if good else ""
        end = "     convergence has been achieved in   9 iterations\n"
        end = end if good else "     convergence NOT achieved after 100 iterations: stopping\n"
        parts.append(f"     End of self-consistent calculation\n\n{_NO_BANDS}\n{energy}{end}\n{forces}\n")
    return head + "\n" + card.join(parts) + card  # a relaxation prints its last configuration again


def gpaw(converged: Sequence[bool]) -> str:
    """Text output of calculations of one crystal; GPAW prints energies behind the end of the cycles."""
    blocks = []
    for k, good in enumerate(converged):
        blocks.append(f"""Positions:
   0 Cu     0.000000    0.000000    0.000000    ( 0.0000,  0.0000,  0.0000)
   1 Cu     1.500000    1.500000    1.500000    ( 0.0000,  0.0000,  0.0000)

Unit cell:
           periodic     x           y           z      points  spacing
  1. axis:    yes    3.000000    0.000000    0.000000    16     0.1875
  2. axis:    yes    0.000000    3.000000    0.000000    16     0.1875
  3. axis:    yes    0.000000    0.000000    3.000000    16     0.1875

iter:   1 00:00:00
{"Converged after 9 iterations." if good else "Did not converge!"}

Energy contributions relative to reference atoms: (reference = -1.0)

Free energy:   {-k - 1.1:.6f}
Extrapolated:  {-k - 1:.6f}

Forces in eV/Ang:
  0 Cu    0.00000    0.00000    0.00000
  1 Cu    0.00000    0.00000    0.00000

""")
    return "\n  ___ ___ ___ _ _ _  \n |   |   |_  | | | |\n\n" + "".join(blocks)


def from_flags(write: Callable[[Sequence[int]], str]) -> Callable[[Sequence[bool]], str]:
    return lambda converged: write([3 if good else NELM for good in converged])


OUTPUTS: dict[str, tuple[str, Callable[[Sequence[bool]], str]]] = {
    "vasprun": ("vasprun.xml", from_flags(vasprun)),
    "outcar": ("OUTCAR", outcar),
    "outcar of VASP 6": ("OUTCAR", lambda converged: outcar(converged, said=True)),
    "espresso": ("pw.out", espresso),
    "gpaw": ("gpaw.txt", gpaw),
}


def frames(path: Path, **options: bool) -> list[Structure | SkippedItem]:
    return list(read_ase_file(path, labels=ENERGY, **options))


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("converged", [(True, True, True), (True, False, True), (False, True, False)])
def test_frames_that_did_not_converge_are_left_out_and_named(tmp_path, name, converged):
    file, write = OUTPUTS[name]
    (tmp_path / file).write_text(write(converged))
    found = frames(tmp_path / file)
    assert [isinstance(item, Structure) for item in found] == list(converged)
    for k, item in enumerate(found):
        if isinstance(item, Structure):
            assert item.labels["energy"] == pytest.approx(-k - 1)
        else:
            assert item.where.startswith(f"{Path(file).stem}-{k} (") and "keep_unconverged=true" in item.reason and not item.invalid


@pytest.mark.parametrize("name", ["vasprun", "outcar", "gpaw"])
def test_they_are_kept_where_the_user_says_so(tmp_path, name):
    file, write = OUTPUTS[name]
    (tmp_path / file).write_text(write((True, False)))
    assert all(isinstance(item, Structure) for item in frames(tmp_path / file, keep_unconverged=True))


def test_the_last_cycle_that_is_allowed_may_converge(tmp_path):
    converged = vasprun([NELM]).replace(f"{-1 + 0.1:}", "-1.0").replace(f"{-1 - 0.1:}", "-1.0")
    (tmp_path / "vasprun.xml").write_text(converged)
    assert unconverged_frames(tmp_path / "vasprun.xml") == {}


def test_a_vasprun_that_was_cut_short_is_judged_as_far_as_it_goes(tmp_path):
    whole = vasprun([3, NELM, 3])
    (tmp_path / "vasprun.xml").write_text(whole[: whole.rindex("<calculation>") + 40])
    assert unconverged_frames(tmp_path / "vasprun.xml") == {1: f"{NELM} cycles of NELM={NELM}"}


def test_a_shortened_outcar_without_cycles_is_not_judged(tmp_path):
    lines = outcar([False, False]).splitlines(keepends=True)
    (tmp_path / "OUTCAR").write_text("".join(line for line in lines if "Iteration" not in line))
    assert unconverged_frames(tmp_path / "OUTCAR") == {}


def test_compressed_outputs_are_judged_too(tmp_path):
    (tmp_path / "vasprun.xml.gz").write_bytes(gzip.compress(vasprun([3, NELM]).encode()))
    assert list(unconverged_frames(tmp_path / "vasprun.xml.gz")) == [1]


def test_other_files_are_not_judged(tmp_path):
    (tmp_path / "a.extxyz").write_text("1\nenergy=-1.0\nH 0 0 0\n")
    (tmp_path / "b").write_bytes(b"\x00\xff")
    assert unconverged_frames(tmp_path / "a.extxyz") == unconverged_frames(tmp_path / "b") == {}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "vasprun.xml").write_text(vasprun([3, NELM, 3, NELM]))

    def run(**options):
        settings = {"name": "set", "out": str(tmp_path / "s.unipot"), "level_of_theory": "PBE", "overwrite": True, **options}
        return prepare(PrepareConfig(path=str(tmp_path / "vasprun.xml"), **settings))

    return run


def test_prepare_counts_and_lists_them(run, capsys):
    store = run()
    assert [float(s.labels["energy"]) for s in store] == [-1.0, -3.0]
    listed = [json.loads(line) for line in (store.path / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["reason"] for entry in listed] == ["unconverged"] * 2
    assert [entry["id"] for entry in listed] == [f"vasprun-{k} ({NELM} cycles of NELM={NELM})" for k in (1, 3)]
    assert "2 structures, 2 skipped, 2 in quarantine" in capsys.readouterr().out.replace("\n", " ")


def test_prepare_keeps_them_on_request(run):
    assert np.allclose([float(s.labels["energy"]) for s in run(keep_unconverged=True)], [-1, -2, -3, -4])


def test_a_file_of_nothing_else_is_refused_with_the_option(tmp_path, run):
    (tmp_path / "vasprun.xml").write_text(vasprun([NELM, NELM]))
    with pytest.raises(ValueError, match="nothing is left to store.* 2 for unconverged .*keep_unconverged=true"):
        run()
