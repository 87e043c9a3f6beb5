"""Tapes as a run hears them: what each step costs, under the spectrogram."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws import features
from kws.bundle import Bundle
from kws.data import tape as tapes
from kws.data.audio import SAMPLE_RATE
from kws.data.tape import Tape, Window
from kws.deploy.boards import Board
from kws.features.tables import mel_centres_hz
from kws.recipe import Features
from kws.report import shell
from kws.report.shell import term, text
from kws.simulate import stream
from kws.simulate.stream import ALL, Followed

TEMPLATE = Path(__file__).with_name("tape.html")
EXCERPT_S = 20.0
LEAD_S = 3.0  # heard before an excerpt, so that nothing in it is a first decision
MOST_DRAWN = 4
FAULT = 3  # so many words that are heard is a miss or a false alarm worth, to be drawn
HERTZ = (250, 500, 1000, 2000, 4000)


@dataclass(frozen=True)
class Excerpt:
    """A part of a tape, to be drawn.

    Args:
        of: The whole tape.
        start_s: Where it begins there.
        pcm: int16 [samples].
        features: int8 [frames, mel_bins], as the network reads them.
        chosen: bool [decisions of the tape], those of the excerpt.
        cost: float [steps, 2], of features and network: instructions, where they were
            counted; else multiply-accumulates, the features' 0.
    """

    of: Followed
    start_s: float
    pcm: np.ndarray
    features: np.ndarray
    chosen: np.ndarray
    cost: np.ndarray


@dataclass(frozen=True)
class OnTapes:
    """A run on tapes.

    Args:
        table: From `kws.simulate.stream.table`.
        excerpts: Of the first few tapes.
        board: That instructions were counted on; None: none were.
        counted: Sound -> instructions, of the excerpts (kws.simulate.stream.by_sound).
        dense: What the network's step costs with nothing skipped, in the same unit.
        spec: Of the features.
        step_s: From one decision to the next.
    """

    table: dict[str, Any]
    excerpts: tuple[Excerpt, ...]
    board: str | None
    counted: dict[str, dict[str, Any]]
    dense: float
    spec: Features
    step_s: float


def measure(
    bundle: Bundle,
    paths: Sequence[Path],
    board: Board | None,
    say: Callable[[str], None] = print,
) -> OnTapes:
    """Run tapes through the board's C on this machine, and excerpts on a board.

    Args:
        bundle: A converted bundle.
        paths: Tapes with their truth, or folders of them.
        board: An emulated one, to count instructions on.
        say: Called with what is done next.

    Raises:
        KwsError: no such tape, no truth, too short a tape.
    """
    found = tapes.opened(tapes.files(paths), bundle.labels)
    opened = [(Path(name).name, tape) for name, tape in found]
    every = stream.follow(bundle, opened, None, lambda name: say(f"Hearing {name}"))
    size = stream.step_samples(bundle)
    drawn, excerpts, cuts = opened[:MOST_DRAWN], [], []
    if board is not None:
        say(f"Counting each step's instructions on {board.name}")
    for (name, tape), one in zip(drawn, every, strict=False):
        excerpt, cut = _excerpt(bundle, tape, one, size)
        excerpts.append(excerpt)
        cuts.append((name, cut))
    dense, counted = float(every[0].steps.macs_dense), {}
    if board is not None:
        heard = stream.follow(bundle, cuts, board)
        excerpts = [
            dataclasses.replace(excerpt, cost=_last(one, len(excerpt.cost)))
            for excerpt, one in zip(excerpts, heard, strict=True)
        ]
        counted = stream.by_sound(bundle, heard)
        plain = dataclasses.replace(bundle, thresholds={})
        few = dataclasses.replace(cuts[0][1], windows=[], said=[])
        few = dataclasses.replace(few, pcm=few.pcm[: int(LEAD_S * SAMPLE_RATE)])
        (whole,) = stream.follow(plain, [(cuts[0][0], few)], board)
        assert whole.instructions is not None
        dense = float(whole.instructions[1:, 1].mean())
    return OnTapes(
        stream.table(bundle, every),
        tuple(excerpts),
        None if board is None else board.name,
        counted,
        dense,
        bundle.recipe.features,
        size / SAMPLE_RATE,
    )


def _last(one: Followed, count: int) -> np.ndarray:
    """The instructions of the last steps of a cut: those before lead to them."""
    assert one.instructions is not None
    return one.instructions[-count:].astype(np.float64)


def _excerpt(
    bundle: Bundle, tape: Tape, one: Followed, size: int
) -> tuple[Excerpt, Tape]:
    """The part of a tape to draw; and the same with what leads to it."""
    begin = round(_start(one, len(tape.pcm) / SAMPLE_RATE) * SAMPLE_RATE / size) * size
    end = min(len(tape.pcm), begin + int(EXCERPT_S * SAMPLE_RATE))
    time_s = one.steps.found.time_ms / 1000
    chosen = (time_s > begin / SAMPLE_RATE) & (time_s <= end / SAMPLE_RATE)
    chosen[0] = False
    macs = one.steps.macs[chosen]
    pcm = tape.pcm[begin:end]
    excerpt = Excerpt(
        one,
        begin / SAMPLE_RATE,
        pcm,
        features.extract(pcm, bundle.recipe.features),
        chosen,
        np.stack([np.zeros_like(macs), macs], axis=1),
    )
    # Cut where a step ends, so that its decisions are the tape's.
    first = max(0, begin - math.ceil(LEAD_S * SAMPLE_RATE / size) * size)
    late_s = first / SAMPLE_RATE
    said = [
        dataclasses.replace(
            window,
            start_s=max(0.0, window.start_s - late_s),
            end_s=max(0.0, window.end_s - late_s),
        )
        for window in [*tape.windows, *tape.said]
    ]
    return excerpt, Tape(tape.pcm[first:end], [], tape.kind, said, tape.made)


def _start(one: Followed, seconds: float) -> float:
    """Where most happens: words, and above all misses and false alarms."""
    last = max(0.0, seconds - EXCERPT_S)
    judged = tapes.judge(one.events, one.windows)
    marks = [(one.windows[place].start_s, 1) for _, place in judged.hits]
    marks += [(one.windows[place].start_s, FAULT) for place in judged.misses]
    marks += [(one.events[place][1], FAULT) for place in judged.false_alarms]
    if not marks:
        return last / 2
    starts = [min(max(0.0, at - 2.0), last) for at, _ in sorted(marks)]
    worth = [
        sum(weight for at, weight in marks if start <= at < start + EXCERPT_S - 1)
        for start in starts
    ]
    return starts[int(np.argmax(worth))]


# --- the part of a page ---------------------------------------------------------------


def body(found: OnTapes, sound: bool) -> str:
    """The part of a run's page.

    Args:
        found: From `measure`.
        sound: Whether the excerpts can be listened to.
    """
    unit = "instructions" if found.board else "MACs"
    per_second = 1 / found.step_s
    named = term("instructions" if found.board else "macs", unit)
    where = f" on {text(found.board)}, counted exactly" if found.board else ""
    drawn = [_drawn(found, excerpt) for excerpt in found.excerpts]
    parts = {
        "tape": term("tape", "tape"),
        "step": f"{1000 * found.step_s:g} ms",
        "unit": named,
        "where": where,
        "figures": "".join(
            _figure(found, number, excerpt, sound)
            for number, excerpt in enumerate(found.excerpts)
        ),
        "more": _more(found),
        "tables": _tables(found),
        "data": shell.data(
            "tape-data",
            {
                "unit": unit,
                "rate": per_second,
                "dense": round(per_second * found.dense),
                "hertz": _hertz(found.spec),
                "tapes": drawn,
            },
        ),
    }
    return shell.fill(TEMPLATE.read_text(encoding="utf-8"), parts)


def _figure(found: OnTapes, number: int, excerpt: Excerpt, sound: bool) -> str:
    """What the script draws into."""
    name, audio = text(excerpt.of.name), ""
    if sound:
        audio = (
            f'<audio controls preload="none" src="{shell.sound(excerpt.pcm)}" '
            f'aria-label="Excerpt of {name}"></audio>'
        )
    return (
        f'<figure class="tape" data-tape="{number}"><figcaption><b>{name}</b> '
        f'<span class="soft">{text(_caption(excerpt))}</span></figcaption>'
        '<div class="stage"><canvas aria-hidden="true"></canvas><svg role="img" '
        f'tabindex="0" aria-label="{text(_spoken(excerpt, found))}"></svg></div>'
        f'{audio}<p class="soft told" role="status"></p></figure>'
    )


def _more(found: OnTapes) -> str:
    left = len(found.table["tapes"]) - len(found.excerpts)
    return f"<p>{left} more are in the table alone.</p>" if left > 0 else ""


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _caption(excerpt: Excerpt) -> str:
    length = len(excerpt.pcm) / SAMPLE_RATE
    return (
        f"{excerpt.of.kind}, {length:.0f} s of {_clock(excerpt.of.score.hours * 3600)} "
        f"min, from {_clock(excerpt.start_s)}"
    )


def _spoken(excerpt: Excerpt, found: OnTapes) -> str:
    """The drawing in words."""
    rate, cost = 1 / found.step_s, excerpt.cost.sum(axis=1)
    unit = "instructions" if found.board else "MACs"
    marks = ", ".join(
        f"{mark['word']} {'heard' if mark['hit'] else 'heard where none was said'} at "
        f"{mark['time']:.1f} s"
        for mark in _events(excerpt)
    )
    return (
        f"Spectrogram, and {unit} a second under it: {rate * cost.mean() / 1e6:.2f} "
        f"million on average, {rate * cost.max() / 1e6:.2f} at most. "
        f"{marks or 'No word was heard'}. Arrow keys go from step to step."
    )


def _events(excerpt: Excerpt) -> list[dict[str, Any]]:
    """Of the excerpt: when, which word, whether it was said."""
    one, end_s = excerpt.of, excerpt.start_s + len(excerpt.pcm) / SAMPLE_RATE
    judged = tapes.judge(one.events, one.windows)
    marks = [(i, True) for i, _ in judged.hits]
    marks += [(i, False) for i in judged.false_alarms]
    return [
        {"time": round(time_s, 3), "word": word, "hit": hit}
        for (word, time_s), hit in ((one.events[i], hit) for i, hit in sorted(marks))
        if excerpt.start_s <= time_s <= end_s
    ]


def _words(excerpt: Excerpt) -> list[dict[str, Any]]:
    """Of the excerpt: what is said when, and whether it was heard."""
    one, end_s = excerpt.of, excerpt.start_s + len(excerpt.pcm) / SAMPLE_RATE
    missed = set(tapes.judge(one.events, one.windows).misses)
    rows: list[tuple[Window, str]] = [
        (window, "missed" if i in missed else "heard")
        for i, window in enumerate(one.windows)
    ]
    own = {(w.start_s, w.end_s) for w in one.windows}
    rows += [(w, "other") for w in one.said if (w.start_s, w.end_s) not in own]
    return [
        {
            "start": round(window.start_s, 3),
            "end": round(window.end_s, 3),
            "word": window.word,
            "state": state,
        }
        for window, state in sorted(rows, key=lambda row: row[0].start_s)
        if window.end_s > excerpt.start_s and window.start_s < end_s
    ]


def _drawn(found: OnTapes, excerpt: Excerpt) -> dict[str, Any]:
    """What the page's script draws."""
    frames, spec = excerpt.features, found.spec
    kinds = sorted(set(excerpt.of.sounds[excerpt.chosen].tolist()))
    low, high = np.percentile(frames, [2, 99.7])
    return {
        "start": round(excerpt.start_s, 3),
        "seconds": len(excerpt.pcm) / SAMPLE_RATE,
        "frames": list(frames.shape),
        "first": spec.window / 2 / SAMPLE_RATE,  # a frame stands in its middle
        "hop": spec.hop / SAMPLE_RATE,
        "range": [round(float(low)), max(round(float(high)), round(float(low)) + 32)],
        "features": base64.b64encode(frames.tobytes()).decode("ascii"),
        "times": [
            round(t, 3)
            for t in (excerpt.of.steps.found.time_ms[excerpt.chosen] / 1000).tolist()
        ],
        "cost": np.rint(excerpt.cost.T).astype(int).tolist(),
        "kinds": kinds,
        "sounds": [
            kinds.index(sound) for sound in excerpt.of.sounds[excerpt.chosen].tolist()
        ],
        "words": _words(excerpt),
        "events": _events(excerpt),
    }


def _hertz(spec: Features) -> list[tuple[int, float]]:
    """Frequencies and how high they stand in the spectrogram, 0 to 1."""
    peaks = mel_centres_hz(spec)
    places = np.interp(HERTZ, peaks, np.arange(-0.5, spec.mel_bins + 1))
    return [
        (hertz, round(float(place) / spec.mel_bins, 4))
        for hertz, place in zip(HERTZ, places, strict=True)
        if peaks[1] <= hertz <= peaks[-2]
    ]


def _tables(found: OnTapes) -> str:
    every = [
        (text(one["tape"]), text(one["kind"]), *shell.faults(one))
        for one in found.table["tapes"]
    ]
    if len(every) > 1:
        every.append(("together", "", *shell.faults(found.table)))
    sounds = found.table["sounds"]
    kinds = list(sounds[ALL]["sent"])
    rows = [
        (
            text(name),
            f"{60 * cost['hours']:.1f}",
            f"{100 * cost['at_rest']:.0f} %",
            f"{cost['macs_per_second'] / 1e6:.2f} M",
            f"{cost['macs_per_step']['mean']:,.0f}",
            f"{cost['macs_per_step']['p95']:,.0f}",
            *(f"{100 * cost['sent'][kind]:.0f} %" for kind in kinds),
        )
        for name, cost in sounds.items()
    ]
    head = (
        "sound",
        "minutes",
        term("rest", "at rest"),
        f"{term('macs', 'MACs')} a second",
        "a step",
        "95 % of steps below",
        *(f"{text(kind)} sent" for kind in kinds),
    )
    made = (
        "<h3>Tapes</h3>"
        + shell.table(
            (term("tape", "tape"), "kind", *shell.fault_heads()),
            every,
            "Tapes",
        )
        + "<h3>What a second costs, by kind of sound</h3>"
        + shell.table(head, rows, "Cost by sound")
    )
    if not found.counted:
        return made
    counted = [
        (
            text(name),
            f"{3600 * cost['hours']:.0f}",
            *(
                f"{cost['instructions_per_second'][key] / 1e6:.2f} M"
                for key in ("features", "model", "total")
            ),
            f"{cost['instructions_per_step']['mean']:,.0f}",
            f"{cost['instructions_per_step']['p95']:,.0f}",
            f"{cost['instructions_per_step']['max']:,}",
        )
        for name, cost in found.counted.items()
    ]
    return (
        made
        + f"<h3>{term('instructions', 'Instructions')} on {text(found.board)}, of the "
        "excerpts</h3>"
        + shell.table(
            (
                "sound",
                "seconds",
                "features, a second",
                "network",
                "both",
                "a step",
                "95 % of steps below",
                "the dearest",
            ),
            counted,
            "Instructions by sound",
        )
    )
