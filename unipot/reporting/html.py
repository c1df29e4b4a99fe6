"""One self-contained HTML page: no links to anything outside, images inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template

from unipot.errors import InputError
from unipot.reporting.tables import ReportTable


@dataclass(frozen=True, kw_only=True)
class Figure:
    """An image with its caption.

    Attributes:
        caption: one or two sentences.
        image: bytes of an SVG or a PNG.
    """

    caption: str
    image: bytes


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with text, tables and figures, shown in that order.

    Attributes:
        title: heading.
        text: paragraphs of plain text.
        tables: below the text.
        figures: below the tables.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[ReportTable] = field(default=())
    figures: Sequence[Figure] = field(default=())


def write_report(path: str | Path, title: str, subtitle: str, sections: Sequence[Section]) -> Path:
    """Write the page; returns its path.

    Raises:
        ValueError: there is nothing to report, or an image is neither SVG nor PNG.
    """
    if not sections:
        raise InputError(f"report {str(path)!r}: there is no section to write")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = "".join(f'<li><a href="#section-{k}">{escape(s.title)}</a></li>' for k, s in enumerate(sections))
    body = "".join(_section(k, s) for k, s in enumerate(sections))
    page = _PAGE.substitute(title=escape(title), subtitle=escape(subtitle), contents=contents, body=body)
    path.write_text(page, encoding="utf-8")
    return path


def _section(number: int, section: Section) -> str:
    parts = [f'<section id="section-{number}"><h2>{escape(section.title)}</h2>']
    parts += [f"<p>{escape(text)}</p>" for text in section.text]
    parts += [f'<div class="scroll">{table.to_html()}</div>' for table in section.tables]
    parts += [_figure(figure) for figure in section.figures]
    return "".join(parts) + "</section>"


def _figure(figure: Figure) -> str:
    if figure.image.startswith(b"\x89PNG"):
        kind = "image/png"
    elif b"<svg" in figure.image[:1000]:
        kind = "image/svg+xml"
    else:
        raise InputError(f"figure {figure.caption!r} is neither SVG nor PNG; save it in one of these formats")
    data = base64.b64encode(figure.image).decode("ascii")
    caption = escape(figure.caption)
    return f'<figure><img alt="{caption}" src="data:{kind};base64,{data}"><figcaption>{caption}</figcaption></figure>'


_PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { --ink: #1d2733; --soft: #5b6775; --line: #dfe4ea; --accent: #0072b2; --best: #eef6fb; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 32px 24px 64px; color: var(--ink); background: #fff;
       font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header { border-bottom: 3px solid var(--accent); padding-bottom: 12px; margin-bottom: 20px; }
h1 { font-size: 26px; margin: 0; } header p { margin: 4px 0 0; color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 20px; list-style: none; margin: 0; padding: 0; }
nav a { color: var(--accent); text-decoration: none; } nav a:hover { text-decoration: underline; }
h2 { font-size: 19px; margin: 36px 0 8px; padding-bottom: 4px; border-bottom: 1px solid var(--line); }
p { max-width: 80ch; margin: 8px 0; }
.scroll { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 4px 0 6px; caption-side: top; }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
.text { text-align: left; min-width: 12ch; } th.number { min-width: 9ch; white-space: normal; }
.number { text-align: right; white-space: nowrap; }
tr.best td { background: var(--best); font-weight: 600; }
figure { margin: 18px 0; } figure img { max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: 13px; max-width: 90ch; }
@media print { body { max-width: none; padding: 0; } section { break-inside: avoid-page; } }
</style></head>
<body><header><h1>$title</h1><p>$subtitle</p></header>
<nav><ul>$contents</ul></nav>
<main>$body</main></body></html>
"""
)
