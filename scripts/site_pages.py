"""MkDocs hook: pages of the site that lie elsewhere in the repository, and links that leave the site.

In the repository a page links to a file where it lies (`../scripts/RESULTS.md`). On the site that file is a page or a picture of its own;
source code is a name without a link.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: file in the repository -> its name on the site
ELSEWHERE = {
    "scripts/RESULTS.md": "measurements.md",
    "data_recipes/README.md": "recipes.md",
    "scripts/benchmark_peers/README.md": "benchmark.md",
    "scripts/benchmark_peers/front.png": "front.png",
}
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def linked(text: str, source: str) -> str:
    """`text` with links as the site has them.

    Args:
        text: Markdown.
        source: where it lies in the repository, as `docs/data.md`.

    Example:
        >>> linked("[log](../scripts/RESULTS.md#stability), [code](../unipot/batch.py)", "docs/results.md")
        '[log](measurements.md#stability), code (`unipot/batch.py`)'
    """

    def replaced(found: re.Match[str]) -> str:
        target, _, section = found["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        name = ELSEWHERE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if name is None:
            return f"{found['text']} (`{path}`)" if path not in found["text"] else found["text"]
        return f"{found['picture']}[{found['text']}]({name}{'#' if section else ''}{section})"

    return _LINK.sub(replaced, text)


def on_files(files: Any, config: Any) -> Any:
    """Add the files that lie elsewhere."""
    from mkdocs.structure.files import File

    for path, name in ELSEWHERE.items():
        content: Any = (ROOT / path).read_bytes()
        if name.endswith(".md"):
            content = linked(content.decode(), path)
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of the pages in docs/."""
    return markdown if page.file.src_uri in ELSEWHERE.values() else linked(markdown, f"docs/{page.file.src_uri}")
