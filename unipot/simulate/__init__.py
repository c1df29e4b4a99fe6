"""What one does with a potential: relax, run molecular dynamics, scan distances and volumes. All through ASE, for any calculator."""

from unipot.simulate.dynamics import ExplodedError, Trajectory, molecular_dynamics
from unipot.simulate.equation_of_state import EquationOfState, equation_of_state
from unipot.simulate.frames import FrameWriter
from unipot.simulate.pair_distribution import PairDistribution
from unipot.simulate.relaxation import NotConvergedError, Relaxation, relax
from unipot.simulate.scan import Scan, dimer_scan, volume_scan
from unipot.simulate.stability import Stage, StageRecord, StageRun

__all__ = [
    "EquationOfState",
    "ExplodedError",
    "FrameWriter",
    "NotConvergedError",
    "PairDistribution",
    "Relaxation",
    "Scan",
    "Stage",
    "StageRecord",
    "StageRun",
    "Trajectory",
    "dimer_scan",
    "equation_of_state",
    "molecular_dynamics",
    "relax",
    "volume_scan",
]
