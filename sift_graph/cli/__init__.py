"""The command: options in, one library call, text out.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 unexpected, 2 usage, 3 not a run directory,
4 finished but some layers or runs failed (listed), 6 store damaged, 130 interrupted (finished rows are kept).
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sift_graph._version import __version__
from sift_graph.errors import SiftGraphError

__all__ = ["app", "main"]

EPILOG = "Docs: the README, and docs/ in the source tree."


class Group(TyperGroup):
    """The one place where an error becomes a line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Parameters
        ----------
        ctx : click.Context

        Returns
        -------
        object

        Raises
        ------
        typer.Exit
            With the exit code of the error.
        """
        from sift_graph.cli.output import complain

        try:
            return super().invoke(ctx)
        except SiftGraphError as error:
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            complain("interrupted; what was finished is kept, the same command goes on from there")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output left: nothing to say to it
            raise typer.Exit(0) from None

    def list_commands(self, ctx: Any) -> list[str]:
        """List the commands in the order of a user's day."""
        order = ["train", "sweep", "watch", "analyze", "correlate", "report", "show", "metrics", "describe", "import"]
        order += ["doctor", "pack", "unpack"]
        return sorted(self.commands, key=lambda name: order.index(name) if name in order else len(order))


app = typer.Typer(
    name="sift-graph",
    cls=Group,
    help=(
        "Why does this sparse mask work? Measure the masks of sparse training as graphs.\n\n"
        "\b\n"
        "  sift-graph train --family sparse_wide --sparsity 0.9 --out runs/a\n"
        "  sift-graph analyze runs/a\n"
        "  sift-graph report runs/a"
    ),
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sift-graph {__version__}")
        raise typer.Exit


@app.callback()
def callback(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line."""
    app()


from sift_graph.cli import (  # noqa: E402  they add their commands to `app`
    cataloguing,  # noqa: F401
    keeping,  # noqa: F401
    linking,  # noqa: F401
    measuring,  # noqa: F401
    showing,  # noqa: F401
    training,  # noqa: F401
)
