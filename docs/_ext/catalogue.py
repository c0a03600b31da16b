"""Directives that print the metric catalogue, the command line's help and the extras from what defines them."""

import os
import tomllib
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive


def table(headings, rows, widths=None):
    """Build a table of literal and plain cells; a cell of several texts has the others in small print below."""
    group = nodes.tgroup(cols=len(headings))
    group.extend(nodes.colspec(colwidth=width) for width in widths or [1] * len(headings))
    head, body = nodes.thead(), nodes.tbody()
    for target, lines in ((head, [headings]), (body, rows)):
        for line in lines:
            row = nodes.row()
            for i, cell in enumerate(line):
                first, *more = cell if isinstance(cell, tuple) else (cell,)
                text = nodes.literal(text=first) if i == 0 and target is body else nodes.Text(first)
                small = [nodes.paragraph(text=line, classes=["text-muted", "small"]) for line in more if line]
                row += nodes.entry("", nodes.paragraph("", "", text), *small)
            target += row
    group += head
    group += body
    return nodes.table("", group, classes=["table-sm", "colwidths-given"])


class MetricCatalogue(Directive):
    """Every metric of the registries, a section for each group."""

    headings: ClassVar[list[str]] = ["column", "formula; range", "what it tells, and what not"]

    def run(self):
        """Build a table for each group."""
        self.state.document.settings.env.note_reread()  # what it prints is not in the page's own file
        from sift_graph.metrics import COSTS, DYNAMICS, GROUPS, METRICS, NETWORK_METRICS

        everything = [*METRICS.values(), *DYNAMICS.values(), *NETWORK_METRICS.values()]
        found = []
        for group, title in GROUPS.items():
            rows = [
                [
                    m.name,
                    (m.formula, f"In {m.values}. Undefined: {m.undefined or 'never'}. Cost: {COSTS[m.cost].order}."),
                    (m.predicts, f"Source: {m.source}." + (f" Tested against: {m.oracle}." if m.oracle else "")),
                ]
                for m in everything
                if m.group == group
            ]
            if rows:
                section = nodes.section(ids=[f"group-{group}"])
                section += nodes.title(text=f"{title} ({group})")
                section += table(self.headings, rows, [24, 38, 38])
                found.append(section)
        return found


class CommandHelp(Directive):
    """The help text of each command, as a terminal of 100 columns shows it."""

    def run(self):
        """Ask the command itself."""
        self.state.document.settings.env.note_reread()
        import typer
        from typer.testing import CliRunner

        from sift_graph.cli import app

        os.environ |= {"TERMINAL_WIDTH": "100", "COLUMNS": "100", "NO_COLOR": "1"}
        found = []
        for command in typer.main.get_command(app).list_commands(None):
            section = nodes.section(ids=[f"command-{command}"])
            section += nodes.title(text=f"sift-graph {command}")
            section += nodes.literal_block(text=CliRunner().invoke(app, [command, "--help"]).stdout, language="none")
            found.append(section)
        return found


class Extras(Directive):
    """The optional parts of the package, from its pyproject.toml."""

    def run(self):
        """Build the table."""
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        rows = [[name, ", ".join(needs)] for name, needs in project["optional-dependencies"].items()]
        return [table(["extra", "installs"], rows)]


def setup(app):
    """Register the directives."""
    app.add_directive("metric-catalogue", MetricCatalogue)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("extras-table", Extras)
    return {"parallel_read_safe": True, "version": "1"}
