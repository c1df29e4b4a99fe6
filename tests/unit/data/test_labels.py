"""Labels of foreign files into canonical unit, sign and shape."""

from __future__ import annotations

import numpy as np
import pytest

from unipot.data.labels import STRESS_ORDERS, LabelSource, check_sources, convert_label, order_where, voigt_places

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


@pytest.mark.parametrize(("order", "components"), [*STRESS_ORDERS.items(), ("xx xy zx yy yz zz", "xx xy xz yy yz zz")])
def test_six_stress_numbers_are_read_in_the_order_that_is_stated(order, components):
    value = {"xx": 1.0, "yy": 2.0, "zz": 3.0, "yz": 4.0, "xz": 5.0, "xy": 6.0}
    source = LabelSource(key="s", unit="eV/A^3", sign="tension", order=order)
    stress = convert_label("stress", source, [value[component] for component in components.split()], 4, 1.0)
    assert stress.tolist() == [[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]


@pytest.mark.parametrize("order", ["VASP", "xx yy zz", "xx yy zz xy xy zx", ""])
def test_an_order_that_is_none_is_refused_with_those_there_are(order):
    with pytest.raises(ValueError, match=r"labels.stress.order is .*voigt \(xx yy zz yz xz xy\), vasp \(xx yy zz xy yz xz\)"):
        check_sources({"stress": LabelSource(key="s", unit="GPa", sign="tension", order=order)})


def test_an_order_is_for_stress_only():
    with pytest.raises(ValueError, match="labels.energy: order 'vasp' is for stress only"):
        check_sources({"energy": LabelSource(key="e", unit="eV", order="vasp")})


def test_a_source_whose_order_is_not_stated_is_described_as_before_there_were_orders():
    """Stores in caches are named after what their sources say."""
    assert LabelSource(key="e", unit="eV").to_dict() == {"key": "e", "unit": "eV", "sign": "positive", "virial": False}
    assert LabelSource(key="s", unit="GPa", sign="tension", order="vasp").to_dict()["order"] == "vasp"


@pytest.mark.parametrize("stated", STRESS_ORDERS)
@pytest.mark.parametrize("true", STRESS_ORDERS)
def test_the_true_order_is_found_from_where_the_shears_came_out(stated, true):
    read = np.arange(6)[voigt_places(stated)]  # place in the file of each component as it was read
    held = np.arange(6)[voigt_places(true)]
    reads_as = [int(np.flatnonzero(read == place)[0]) - 3 for place in held[3:]]
    assert order_where(stated, reads_as) == true
