import re

import numpy as np
import pytest

from unipot.evaluation.records import ParityPoints
from unipot.reporting.html import Figure, Section, write_report
from unipot.reporting.plots import parity_figure
from unipot.reporting.tables import ReportTable


def sections():
    image = parity_figure([ParityPoints(name="m", property="forces", label=np.arange(3.0), prediction=np.arange(3.0))])
    table = ReportTable(title="t", columns=("a",), rows=(("<b>",),))
    return [Section(title="One & two", text=["$100 {braces}"], tables=[table], figures=[Figure(caption='say "so"', image=image)])]


def test_page_refers_to_nothing_outside(tmp_path):
    page = write_report(tmp_path / "deep" / "report.html", "title", "subtitle", sections()).read_text(encoding="utf-8")
    targets = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert targets
    assert all(target.startswith(("data:image/", "#")) for target in targets)
    assert "@import" not in page and "url(" not in page


def test_texts_are_escaped_and_kept(tmp_path):
    page = write_report(tmp_path / "r.html", "a < b", "s", sections()).read_text(encoding="utf-8")
    assert "One &amp; two" in page and "&lt;b&gt;" in page and "$100 {braces}" in page and "a &lt; b" in page


def test_other_image_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match="neither SVG nor PNG"):
        write_report(tmp_path / "r.html", "t", "s", [Section(title="x", figures=[Figure(caption="c", image=b"GIF89a")])])


def test_empty_report_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no section"):
        write_report(tmp_path / "r.html", "t", "s", [])
