import numpy as np
import pytest

from unipot.evaluation.records import ParityPoints
from unipot.reporting.plots import curve_figure, element_error_figure, parity_figure


def points(n=50, name="model", prop="forces"):
    label = np.random.default_rng(0).normal(size=n)
    return ParityPoints(name=name, property=prop, label=label, prediction=label + 0.1)


def test_parity_plot_has_one_panel_per_property():
    one = parity_figure([points()]).decode()
    two = parity_figure([points(), points(prop="energy_per_atom")]).decode()
    assert one.count('id="axes_') == 1
    assert two.count('id="axes_') == 2


def test_figures_are_reproducible_and_carry_no_date():
    assert parity_figure([points()], "a title") == parity_figure([points()], "a title")


def test_many_points_become_pixels():
    assert len(parity_figure([points(50_000)])) < 400_000


def test_one_repeated_value_still_has_axes():
    flat = ParityPoints(name="m", property="energy_per_atom", label=np.full(3, -5.0), prediction=np.full(3, -5.0))
    assert b"<svg" in parity_figure([flat])


def test_element_errors_accept_models_with_different_elements():
    assert b"<svg" in element_error_figure({"a": {"H": 0.1, "C": 0.2}, "b": {"H": 0.3}})


def test_curves_skip_empty_panels():
    curve = (np.arange(3), np.array([1.0, 0.5, 0.2]))
    assert curve_figure({"loss": {"a": curve}, "force MAE": {}}).decode().count('id="axes_') == 1


@pytest.mark.parametrize("draw, nothing", [(parity_figure, []), (element_error_figure, {}), (curve_figure, {"loss": {}})])
def test_nothing_to_draw_is_said(draw, nothing):
    with pytest.raises(ValueError, match="at least one"):
        draw(nothing)
