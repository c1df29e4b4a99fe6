"""Labels of foreign files into canonical unit, sign and shape."""

from __future__ import annotations

import numpy as np
import pytest

from unipot.data.labels import LabelSource, convert_label

FORCES = LabelSource(key="f", unit="eV/A")


@pytest.mark.parametrize("shape", [(4, 3), (12,)])
def test_forces_may_be_rows_or_flat(shape):
    numbers = np.arange(12.0)
    assert np.array_equal(convert_label("forces", FORCES, numbers.reshape(shape), 4, 0.0), numbers.reshape(4, 3))


@pytest.mark.parametrize("shape", [(3, 4), (2, 6), (1, 12), (12, 1), (4, 3, 1)])
def test_forces_of_another_shape_are_refused_though_their_size_fits(shape):
    with pytest.raises(ValueError, match=r"forces \(key 'f'\) has shape .*, expected \(4, 3\)"):
        convert_label("forces", FORCES, np.zeros(shape), 4, 0.0)


@pytest.mark.parametrize("value", [-1.5, [-1.5], np.array(-1.5)])
def test_an_energy_may_be_a_number_or_a_list_of_one(value):
    energy = convert_label("energy", LabelSource(key="e", unit="eV"), value, 4, 0.0)
    assert energy.shape == () and energy == -1.5


def test_two_energies_are_refused():
    with pytest.raises(ValueError, match="energy .* has shape"):
        convert_label("energy", LabelSource(key="e", unit="eV"), [1.0, 2.0], 4, 0.0)
