import pytest
from rich.console import Console

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
