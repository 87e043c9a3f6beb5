"""A hint as it can be typed: what stands for RUN, BOARD and ... was typed before."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from kws.cli import _options
from kws.errors import KwsError, quoted

PLACES = {"RUN": "run", "BOARD": "board_name"}  # in a hint -> the verb's parameter


def as_typed(hint: str, root: click.Group, arguments: Sequence[str]) -> str:
    """The hint, filled in.

    `RUN` and `BOARD` become the run and the board of the command that failed; ` ...`
    behind the same verb becomes its other options and names.

    Args:
        hint: Of a KwsError.
        root: The command `kws`.
        arguments: Those of the command that failed.

    Example:
        >>> from kws.cli import cli
        >>> typed = ["data", "synth", "--words", "hey robot", "--voices", "x"]
        >>> as_typed("kws data synth --voices espeak ...", cli, typed)
        "kws data synth --voices espeak --words 'hey robot'"
    """
    try:
        context = _context(root, arguments)
    except (click.ClickException, KwsError):
        return hint
    if context is None:
        return hint
    for place, name in PLACES.items():
        if isinstance(value := context.params.get(name), str):
            hint = re.sub(rf"(?<![\w/.-]){place}(?![\w/.-])", quoted(value), hint)

    def rest(match: re.Match[str]) -> str:
        before, after = match["before"], match["after"]
        has = re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", before + after)
        names = [] if re.match(r" [^-]", before) else _options.arguments(context)
        more = [quoted(word) for word in (*names, *_options.given(context, has))]
        return " ".join([match["verb"] + before, *more]) + after

    return re.sub(
        rf"(?P<verb>(?<![\w-]){re.escape(context.command_path)})(?P<before>(?: \S+)*?) "
        r"\.\.\.(?P<after>(?: [^\s(]+)*)",
        rest,
        hint,
    )


def _context(root: click.Group, arguments: Sequence[str]) -> click.Context | None:
    """Of the verb that was typed, whatever is wrong with its options; None: of none."""
    command: click.Command = root
    words, parent = list(arguments), click.Context(root, info_name="kws")
    while isinstance(command, click.Group):
        while words and words[0].startswith("-"):
            words.pop(0)
        found = command.get_command(parent, words[0]) if words else None
        if found is None:
            return None
        name, command = words.pop(0), found
        if not isinstance(command, click.Group):
            return command.make_context(name, words, parent, resilient_parsing=True)
        parent = click.Context(command, parent, name)
    return None
