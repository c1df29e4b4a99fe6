"""What one does with a potential: relax, run molecular dynamics, scan the volume. All through ASE, for any calculator."""

from unipot.simulate.equation_of_state import EquationOfState, equation_of_state
from unipot.simulate.md import Trajectory, molecular_dynamics
from unipot.simulate.relax import Relaxation, relax

__all__ = ["EquationOfState", "Relaxation", "Trajectory", "equation_of_state", "molecular_dynamics", "relax"]
