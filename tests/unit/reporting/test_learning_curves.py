import pytest

from unipot.reporting.learning_curve_page import error_bar_table, error_curve_table, learning_curve_figure, median_table, run_table
from unipot.reporting.learning_curves import RunResult, force_curve, forgotten, learning_curves, median_factors


def result(strategy, n_frames, force, *, target="water", seed=0, **more):
    errors = {"test": {"forces": {"mae": force, "rmse": 1.3 * force}, "energy_per_atom": {"mae": 0.01, "rmse": 0.02}}}
    return RunResult(target=target, strategy=strategy, n_frames=n_frames, seed=seed, stamp="", errors=errors, **more)


#: from scratch follows 1 / frames, so that 0.01 eV/Å takes 100 frames
SCRATCH = [result("scratch", n, 1.0 / n) for n in (30, 300)]
TUNED = [result("tuned", 10, 0.009, seed=0), result("tuned", 10, 0.011, seed=1)]


def test_points_are_means_over_seeds_with_the_sample_deviation():
    point = learning_curves([*SCRATCH, *TUNED], "scratch")[-1]
    forces = point.errors["forces", "mae"]
    assert (forces.n, forces.mean, forces.deviation) == (2, pytest.approx(0.01), pytest.approx(0.001 * 2**0.5))


def test_factor_of_the_mean_force_error():
    points = learning_curves([*SCRATCH, *TUNED], "scratch")
    assert points[-1].factor.value == pytest.approx(10.0)
    assert all(p.factor is None for p in points[:-1])


def test_failed_runs_are_in_no_curve():
    failed = RunResult(target="water", strategy="scratch", n_frames=10, seed=0, stamp="", failure="out of memory")
    assert force_curve(learning_curves([failed, *SCRATCH], "scratch"), "water", "test", "scratch") == {30: 1 / 30, 300: 1 / 300}


def test_without_the_reference_there_are_curves_but_no_factors():
    assert [p.factor for p in learning_curves(TUNED, "scratch")] == [None]


def test_only_the_first_test_set_of_a_target_is_in_the_median():
    points = learning_curves([*SCRATCH, *TUNED], "scratch")
    assert median_factors(points, {"water": "test"})["tuned", 10].n == 1
    assert median_factors(points, {"water": "other"}) == {}


def test_forgetting_is_the_mean_and_the_worst_ratio():
    rows = [{"ratio": 1.0}, {"ratio": 1.5}]
    assert forgotten(result("tuned", 10, 0.01, forgetting=rows)) == (1.25, 1.5)
    assert forgotten(result("tuned", 10, 0.01)) is None


def test_tables_and_figure_show_every_point_and_run():
    failed = RunResult(target="silver", strategy="tuned", n_frames=10, seed=0, stamp="", failure="out of memory")
    results = [*SCRATCH, *TUNED, result("tuned", 10, 0.05, target="silver"), failed]
    points = learning_curves(results, "scratch")
    table = error_curve_table(points)
    assert len(table.rows) == 4 and "10.0 ± 1.41" in table.rows[2] and "stress MAE meV/Å³" not in table.columns
    assert [row[4] for row in run_table(results).rows] == ["done"] * 5 + ["failed"]
    medians = median_factors(points, {"water": "test", "silver": "test"})
    assert median_table(medians, "scratch").rows == (("tuned", 10, "10.0", 1, 0),)
    assert learning_curve_figure(points).startswith(b"\x89PNG")


def test_error_bars_have_a_table_over_seeds_and_models_without_them_no_row():
    own = [{"test": {"forces": {"coverage": share, "spearman": 0.5}}} for share in (0.86, 0.94)]
    tuned = [result("tuned", 10, 0.01, seed=seed, error_bars=bars) for seed, bars in enumerate(own)]
    table = error_bar_table(learning_curves([*SCRATCH, *tuned], "scratch"))
    assert table.rows == (("water", "test", "tuned", 10, "–", "–", "90.0 ± 5.66", "–", "0.500 ± 0.00", "–", "–"),)
