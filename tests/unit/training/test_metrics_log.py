import pytest

from unipot.training.metrics_log import MetricsCsv, read_metrics


def test_rows_of_one_step_are_merged_and_columns_may_come_later(tmp_path):
    log = MetricsCsv(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 2.0}, 1)
    log.log_metrics({"loss": 1.0}, 2)
    log.log_metrics({"validation": 0.5}, 2)
    log.log_metrics({"loss": 0.5}, 3)
    assert read_metrics(log.path) == [
        {"step": "1", "loss": "2.0", "validation": ""},
        {"step": "2", "loss": "1.0", "validation": "0.5"},
        {"step": "3", "loss": "0.5", "validation": ""},
    ]


def test_resumed_log_drops_rows_that_will_be_made_again(tmp_path):
    first = MetricsCsv(tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        first.log_metrics({"loss": step / 2}, step)
    again = MetricsCsv(tmp_path / "metrics.csv")
    again.keep_until(2)
    again.log_metrics({"loss": 9.0}, 3)
    assert [row["loss"] for row in read_metrics(again.path)] == ["0.5", "1.0", "9.0"]


@pytest.mark.parametrize("torn", ["1", "12,0.", ",", "x,1.0"])
def test_half_of_a_row_is_dropped(tmp_path, torn):
    """What a full disk leaves of step 120; the half of its number is the number of another step."""
    log = MetricsCsv(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 2.0, "norm": 1.0}, 7)
    with log.path.open("a") as file:
        file.write(torn)
    again = MetricsCsv(tmp_path / "metrics.csv")
    again.keep_until(119)
    assert read_metrics(again.path) == [{"step": "7", "loss": "2.0", "norm": "1.0"}]


def test_numbers_keep_every_digit(tmp_path):
    log = MetricsCsv(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 0.1 + 0.2}, 1)
    assert float(read_metrics(log.path)[0]["loss"]) == 0.1 + 0.2


def test_absent_file_has_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.csv") == []
