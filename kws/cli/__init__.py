"""The `kws` command: one module per verb, imported only when it is called.

A verb `data-synth` would live in `data_synth.py` and expose `command`, a click
command. The folder's listing is the list of verbs: nothing else registers them.
"""

from __future__ import annotations

import difflib
import importlib
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from kws import __version__
from kws.errors import KwsError
from kws.progress import say


class Verbs(click.Group):
    """A click group that asks which verb was meant, where there is none."""

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """List the verbs, each with the whole first sentence of its help."""
        rows = [
            (name, command.get_short_help_str(limit=200))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None
        ]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verbs = self.list_commands(ctx)
        # Of a shell that completes, nobody hears a message.
        if args[0] in verbs or args[0].startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        path = ctx.command_path
        close = difflib.get_close_matches(args[0], verbs, n=1)
        maybe = f" Did you mean {path} {close[0]}?" if close else ""
        raise KwsError(
            f"No such verb.{maybe} Expected one of {', '.join(verbs)}. "
            f"Received: {args[0]!r}",
            f"{path} {close[0]} --help" if close else f"{path} --help",
        )


class VerbFolder(Verbs):
    """A click group whose commands are the modules of this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        folder = Path(__file__).parent
        return sorted(
            path.stem.replace("_", "-")
            for path in folder.glob("*.py")
            if not path.stem.startswith("_")
        )

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"kws.cli.{name.replace('-', '_')}")
        return module.command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """List the verbs by the first line of each module, without importing any."""
        rows = []
        for name in self.list_commands(ctx):
            path = Path(__file__).parent / f"{name.replace('-', '_')}.py"
            first = path.read_text(encoding="utf-8").split("\n", 1)[0]
            rows.append((name, first.strip('"')))
        with formatter.section("Verbs"):
            formatter.write_dl(rows)


SETTINGS = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}


@click.group(cls=VerbFolder, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="kws")
@click.option("--debug", is_flag=True, help="Show the stack trace of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Train a keyword spotter, see what it costs, put it on a microcontroller.

    Example: kws train --preset kwt-tiny --task gsc10 --out runs/tiny
    """
    ctx.obj = {"debug": debug}


def main() -> None:
    """Run the command line and turn every failure into one message and a code.

    Exit codes: 0; 1 ran, but a check failed; 2 bad input; 130 or 143 stopped.
    """
    signal.signal(signal.SIGTERM, _end)
    wants_json = "--json" in sys.argv
    for stream in (sys.stdout, sys.stderr):
        # A name on disk need not be text, and a terminal need not know its letters.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    debug = "--debug" in sys.argv
    try:
        sys.exit(cli.main(prog_name="kws", standalone_mode=False))
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)  # its help, not a mistake's text
        sys.exit(2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        verb = "kws" if context is None else context.command_path
        message = error.format_message()
        if isinstance(error, click.NoSuchOption) and error.possibilities:
            message = f"{error.message} Did you mean {error.possibilities[0]}?"
        _report(message, f"{verb} --help", wants_json)
        sys.exit(2)
    except KwsError as error:
        if debug:
            traceback.print_exc()
        from kws.cli._hints import as_typed

        hint = as_typed(error.hint, cli, sys.argv[1:])
        _report(error.message, hint, wants_json)
        sys.exit(error.exit_code)
    except OSError as error:  # no room, no permission, a folder in a file's place
        if debug:
            traceback.print_exc()
        where = f" Received: {error.filename}" if error.filename else ""
        _report(
            f"The system refused: {error.strerror or error}.{where}",
            "Check the path, its permissions and the room on the disk.",
            wants_json,
        )
        sys.exit(2)


def _end(number: int, _: object) -> NoReturn:
    """`kill` ends it through all that cleans up, as Ctrl-C does; once is enough."""
    signal.signal(number, lambda *_: None)  # not ignored: who is started would inherit
    sys.exit(128 + number)


def _report(message: str, hint: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": message, "hint": hint}))
    say("Error:", message, "bold red")
    say("Hint: ", hint, "bold cyan")
