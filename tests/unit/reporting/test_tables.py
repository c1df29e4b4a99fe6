import io

import pytest
from rich.console import Console

from unipot.reporting.console import report_console
from unipot.reporting.tables import ReportTable, cell_text

TABLE = ReportTable(
    title="errors <on> [test]",
    columns=("model", "MAE meV"),
    rows=(("fine-tuned", 12.345), ("from <scratch> [red]", 1234.5), ("zero-shot", None)),
    best=0,
)


@pytest.mark.parametrize(
    "value, text",
    [(0.012345, "0.0123"), (12.0, "12.0"), (123.4, "123"), (12345.6, "12346"), (None, "–"), (float("nan"), "–"), ("a", "a"), (30, "30")],
)
def test_cells_have_three_digits_and_dashes_for_missing(value, text):
    assert cell_text(value) == text


def test_markdown_emphasises_the_best_row_and_aligns_numbers():
    lines = TABLE.to_markdown().splitlines()
    assert lines[1] == "|---|---:|"
    assert lines[2] == "| **fine-tuned** | **12.3** |"
    assert lines[4] == "| zero-shot | – |"


def test_html_escapes_every_text():
    page = TABLE.to_html()
    assert "from &lt;scratch&gt;" in page and "errors &lt;on&gt;" in page
    assert "<scratch>" not in page
    assert page.count('<tr class="best">') == 1


def test_terminal_rendering_keeps_square_brackets():
    console = Console(width=100)
    with console.capture() as captured:
        console.print(TABLE.to_rich())
    assert "[red]" in captured.get() and "[test]" in captured.get()


def test_table_survives_json():
    assert ReportTable.from_dict(TABLE.to_dict()) == TABLE


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="has 1 cells for 2 columns"):
        ReportTable(title="t", columns=("a", "b"), rows=(("x",),))


def in_terminal(table, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(table.to_rich())
    return console.file.getvalue()


def test_names_and_numbers_are_whole_in_a_narrow_terminal():
    rows = tuple((f"head-number-{n}", "PBE and PBE+U, VASP, settings of a project with a long name", 10.5, 160.25, 0.125) for n in range(3))
    columns = ("head", "level of theory", "energy MAE meV/atom", "force RMSE meV/Å", "cosine")
    text = in_terminal(ReportTable(title="heads", columns=columns, rows=rows), 60)
    for whole in ("head-number-2", "meV/atom", "10.5", "160", "0.125"):
        assert whole in text


def test_columns_without_a_cell_are_left_out_in_the_terminal_alone():
    table = ReportTable(title="errors", columns=("set", "forces", "stress"), rows=(("a", 1.0, None), ("b", 2.0, float("nan"))))
    assert "stress" not in in_terminal(table, 80) and "forces" in in_terminal(table, 80)
    assert "stress" in table.to_markdown() and "stress" in table.to_html()


def test_a_log_file_has_lines_of_140_characters_unless_told(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert report_console().width == 140
    monkeypatch.setenv("COLUMNS", "97")
    assert report_console().width == 97
