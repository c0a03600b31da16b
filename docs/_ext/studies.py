"""Pages of the studies, made from the README that stands beside each study's script and results."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!\w+:|#)([^)\s]+)\)")


def page(readme, studies):
    """Return a README as a page of docs/studies: its links lead to other such pages, its pictures to their files."""

    def moved(link):
        mark, text, target = link.groups()
        if mark:
            return f"![{text}](../../analysis/{readme.parent.name}/{target})"
        other = (readme.parent / target).resolve()
        if other.name == "README.md" and other.parent.name in studies:
            return f"[{text}]({other.parent.name}.md)"
        try:
            return f"[{text}](/{other.relative_to(DOCS)})"
        except ValueError:  # a file of the repository that is no page
            return text

    return LINK.sub(moved, readme.read_text(encoding="utf-8"))


def make_pages(app):
    """Write docs/studies/<name>.md for each study; only what changed, so that builds stay incremental."""
    folder = Path(app.srcdir) / "studies"
    folder.mkdir(exist_ok=True)
    readmes = sorted(r for r in (DOCS.parent / "analysis").glob("*/README.md") if r.parent.name != "benchmarks")
    studies = {readme.parent.name for readme in readmes}
    for readme in readmes:
        path, text = folder / f"{readme.parent.name}.md", page(readme, studies)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app):
    """Make the pages before sources are looked for."""
    app.connect("config-inited", lambda app, config: make_pages(app))
    return {"parallel_read_safe": True, "version": "1"}
