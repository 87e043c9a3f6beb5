"""Lets a person at a terminal choose one of several."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kws.deploy.runners import Ask, Found


def ask() -> Ask | None:
    """A function that asks, or None where nobody is there to answer."""
    if "--json" in sys.argv or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return _ask


def _ask(question: str, found: Sequence[Found]) -> int:
    for number, item in enumerate(found, 1):
        click.echo(f"{number:>3}  {item.title}  ({item.id})", err=True)
    limits = click.IntRange(1, len(found))
    return int(click.prompt(question, type=limits, err=True)) - 1
