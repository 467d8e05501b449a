"""MkDocs hook: add pages from outside of docs/, and tidy up what docstrings become."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("RESULTS.md", "CONTRIBUTING.md", "SECURITY.md")


def on_files(files: Any, config: Any) -> Any:
    """Add the results with their figures, and the pages for contributors."""
    results = (path for path in (ROOT / "results").iterdir() if path.suffix in (".md", ".svg"))
    for path in (*(ROOT / page for page in PAGES), *results):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to and from these pages lead to their copies in the site."""
    if page.file.src_uri.startswith("results/"):  # its links are right as they are
        return markdown
    if page.file.src_uri in PAGES:
        markdown = markdown.replace("](docs/", "](").replace("](README.md", "](index.md")
        return re.sub(r"\[([^]]*)\]\(results\)", r"\1", markdown)
    return re.sub(rf"\]\(\.\./({'|'.join(map(re.escape, PAGES))}|results/)", r"](\1", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Drop the role from Sphinx references such as :class:`X`."""
    return re.sub(r":(?:class|func|data|meth|mod):(?=<code>)", "", html)
