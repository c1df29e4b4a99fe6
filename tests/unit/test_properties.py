"""The property table."""

import pytest

from unipot.properties import PROPERTIES, property_named


@pytest.mark.parametrize(("name", "shape"), [("energy", ()), ("forces", (5, 3)), ("stress", (3, 3))])
def test_label_shape(name, shape):
    assert property_named(name).label_shape(5) == shape


def test_canonical_unit_of_every_property_has_factor_one():
    assert all(p.units[p.unit] == 1.0 for p in PROPERTIES.values())


def test_unknown_property_lists_the_known_ones():
    with pytest.raises(KeyError, match="property 'dipole' is not known; known are: energy, forces, stress"):
        property_named("dipole")
