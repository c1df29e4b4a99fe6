"""For tests of compiled kernels."""

from __future__ import annotations

import pytest

from unipot.models.native import edge_functions, moment_invariants, neighbor_sums
from unipot.models.native.kernel_library import KernelUnavailableError, kernel


@pytest.fixture(scope="session")
def kernels() -> None:
    """Skips where they cannot be compiled."""
    try:
        for module in (edge_functions, moment_invariants, neighbor_sums):
            kernel(module.SOURCE)
    except KernelUnavailableError as error:
        pytest.skip(str(error))
