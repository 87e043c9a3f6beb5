"""What every page has: style, light and dark, terms explained where they stand, buttons
that copy a command. Nothing is loaded: a policy in the page forbids it."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from kws.data.audio import SAMPLE_RATE

TEMPLATE = Path(__file__).with_name("shell.html")

TERMS = {
    "accuracy": "The share of clips whose label was heard. A clip is one second with "
    "one label: a word, unknown (another word) or silence.",
    "interval": "With so many clips the true share lies between these two, 95 times of "
    "100 (Wilson's interval; of false alarms Poisson's). Two networks whose intervals "
    "overlap widely can't be told apart on these clips.",
    "speakers": "Clips of one person go right or wrong together, so that many clips of "
    "few people say less than their number. This interval takes each person for one "
    "draw: other people would give a share between these two, 95 times of 100.",
    "recall": "Of the clips that say a word, the share that was heard as it.",
    "confusion": "A row for each word that was said, a column for each that was heard. "
    "What is right lies on the diagonal.",
    "loudness": "The root mean square of a clip's loudest 0.2 s, in decibels below the "
    "loudest sound that 16 bits hold (dBFS).",
    "posterior": "The network's share of belief in a label, 0 to 1; all labels "
    "together give 1.",
    "loss": "What training makes small: the mean cross entropy, about the negative "
    "logarithm of the belief in the right label.",
    "validation": "Clips that are not trained on, by which the best epoch is chosen. "
    "The test clips are for the figure that is published, once.",
    "qat": "Quantization-aware tuning: training goes on with the rounding to int8 in "
    "the loop, so that the network learns to live with it.",
    "instructions": "What the core executes, counted exactly by an emulator. They are "
    "not cycles: how many a board takes for each is an assumption of its board.toml.",
    "macs": "Multiply-accumulates: one product added to one sum, the bulk of a "
    "network's work.",
    "touched": "Bytes read and written by one decision, each operator by itself and "
    "without a cache. Weights lie in flash; activations, state (what is kept from one "
    "step to the next) and scratch (a kernel's own) in RAM.",
    "duty": "The share of its time that the core is awake: microphone, features and "
    "network, at the board's clock and an assumed number of cycles per instruction. "
    "Above 100 % it would lose sound.",
    "alarms": "Words that were heard where none was said, per hour of sound.",
    "missed": "Words that were said on the tapes and not heard.",
    "tape": "A long recording with a table of what is said when.",
    "rest": "The features had been the same for as long as the network looks back, so "
    "a step took the decision before it, and computed nothing.",
    "delta": "A delta threshold lets the network skip what hardly changed from one "
    "moment of the sound to the next.",
}


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Args:
        anchor: Its name in addresses.
        title: Its heading.
        body: HTML.
    """

    anchor: str
    title: str
    body: str


def text(value: object) -> str:
    """For HTML; a file's name need not be text."""
    return html.escape(str(value).encode(errors="backslashreplace").decode())


def term(name: str, shown: str) -> str:
    """A word that says what it means when it is pressed."""
    return (
        f'<button type="button" class="term" popovertarget="term-{name}">'
        f"{text(shown)}</button>"
    )


def command(*words: object) -> str:
    """A command with a button that copies it."""
    return copied(shlex.join(str(word) for word in words))


def is_command(line: object, *first: str) -> bool:
    """Whether a file's line is one command of ours and nothing behind it: a page offers
    it to be copied.

    Example:
        >>> is_command("kws sweep 'my run'", "kws", "sweep")
        True
        >>> is_command("kws sweep x; rm -r .", "kws", "sweep")
        False
    """
    try:
        words = shlex.split(line) if isinstance(line, str) else []
    except ValueError:  # a quote that does not end
        return False
    return tuple(words[: len(first)]) == first and shlex.join(words) == line


def fault_heads() -> tuple[str, ...]:
    """Heads of the columns that `faults` fills."""
    return (
        "hours",
        "words",
        term("missed", "missed"),
        term("interval", "95 %"),
        term("alarms", "false alarms an hour"),
        term("interval", "95 %"),
    )


def faults(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Cells of misses and false alarms on tapes, of kws.data.tape.figures."""
    low, high = (float(x) for x in figures["false_alarms_per_hour_ci95"])
    missed = ("", "", "")
    if figures["words"]:
        least, most = (100 * float(x) for x in figures["miss_rate_ci95"])
        missed = (
            str(int(figures["words"])),
            f"{int(figures['missed'])} = {100 * float(figures['miss_rate']):.1f} %",
            f"{least:.1f} to {most:.1f}",
        )
    rate = float(figures["false_alarms_per_hour"])
    return (
        f"{float(figures['hours']):.2f}",
        *missed,
        f"{int(figures['false_alarms'])} = {rate:.2f}",
        f"{low:.2f} to {high:.2f}",
    )


def copied(line: str) -> str:
    """The same, of a whole line."""
    return (
        f'<div class="command"><code>{text(line)}</code>'
        '<button type="button" class="copy">Copy</button></div>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> str:
    """A table in a frame that scrolls where it is wider than the screen.

    Args:
        head: HTML of each column's heading.
        rows: HTML of each cell; the first one is the row's heading.
        name: For screen readers.
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return wide(
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>", name
    )


def wide(content: str, name: str) -> str:
    """What may be wider than the screen: it scrolls in itself, by keys too."""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(name)}">'
        f"{content}</div>"
    )


def data(name: str, value: Any) -> str:
    """What a section's script reads. Nothing in it may end the script element."""
    made = json.dumps(value).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{made}</script>'


def sound(pcm: np.ndarray) -> str:
    """A recording, int16 [samples], as an address that holds it: FLAC, without loss and
    half as large."""
    file = io.BytesIO()
    soundfile.write(file, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def fill(template: str, parts: dict[str, str]) -> str:
    """A template with its places (@@name@@) filled.

    In one pass: what is put in may look like a place itself.
    """
    return re.sub("@@([a-z]+)@@", lambda match: parts[match[1]], template)


def page(title: str, intro: str, sections: Sequence[Section]) -> str:
    """The page.

    Args:
        title: Text.
        intro: HTML between the heading and the first section.
        sections: In order.
    """
    body = "".join(
        f'<section class="part" id="{s.anchor}" aria-labelledby="{s.anchor}-title">'
        f'<h2 id="{s.anchor}-title">{text(s.title)}</h2>{s.body}</section>'
        for s in sections
    )
    links = "".join(
        f'<a href="#{section.anchor}">{text(section.title)}</a>' for section in sections
    )
    used = re.findall(r'popovertarget="term-([a-z]+)"', intro + body)
    terms = "".join(
        f'<div class="meaning" popover id="term-{name}" role="note">{text(TERMS[name])}'
        "</div>"
        for name in dict.fromkeys(used)
    )
    parts = {
        "title": text(title),
        "intro": intro,
        "links": f'<nav aria-label="Parts">{links}</nav>' if len(sections) > 1 else "",
        "body": body,
        "terms": terms,
    }
    return fill(TEMPLATE.read_text(encoding="utf-8"), parts)
