"""Long tapes: known words at known times, and how a detector did on them."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kws.bundle import write_all, write_atomic
from kws.data import audio, names
from kws.data.ambient import Sound, words_in
from kws.data.audio import SAMPLE_RATE, wav_bytes
from kws.data.splits import SPLITS, some
from kws.errors import KwsError, quoted
from kws.intervals import poisson_interval, wilson_interval
from kws.recipe import SILENCE, UNKNOWN

WORDS, RECORDING = "words", "recording"  # kinds of tapes: with keywords, and without
TOLERANCE_S = 1.0  # how late after its end a word may be heard
REPEAT_S = 1.0  # how close two events of one word count as one
LOUDEST = 9000.0  # root mean square of a word that is laid
HEADROOM = 8192.0  # what a word's peak may have at least, however loud the bed is
SIDE = ".tape.json"  # what is known of a tape besides its truth
TRUTHS = (".tsv", ".csv", ".txt", ".json")
MAX_TSV_BYTES = 16 * 1024 * 1024
QUIET, NOISE, OTHER = "silence", "noise", "other"  # what sounds at a moment
QUIET_DBFS = -55.0  # below it a moment is silence: a quiet room's noise is near -60
# What the columns of a truth are called in tables of label editors.
_COLUMNS = {
    "start": {"start", "begin", "onset", "tmin", "from"},
    "end": {"end", "stop", "tmax", "to"},
    "word": {"word", "label", "text", "name", "annotation", "keyword", "class"},
}


@dataclass(frozen=True)
class Window:
    """A word that was said: where it starts and ends, in seconds.

    Args:
        word: Which.
        start_s: Where it starts.
        end_s: Where it ends.
        snr_db: How much louder than the bed it was laid; None where nobody knows.
        clip: Name of the clip that was laid.
    """

    word: str
    start_s: float
    end_s: float
    snr_db: float | None = None
    clip: str = ""


@dataclass(frozen=True)
class Tape:
    """A long recording with truth.

    Args:
        pcm: int16 [n] at 16 kHz.
        windows: Every keyword, in order of time.
        kind: What sounds on it: words, speech, noise, music ...
        said: All that is known to be said, keywords and other words and sentences, in
            order of time: to look up what a false alarm was.
        made: How it was made: options of `kws data tape`.
    """

    pcm: np.ndarray
    windows: list[Window]
    kind: str = WORDS
    said: list[Window] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        return len(self.pcm) / SAMPLE_RATE / 3600

    @property
    def bed(self) -> str:
        """What sounds where nothing is said: of a tape of words its bed."""
        if self.kind == WORDS:
            return str(self.made.get("bed", NOISE))
        return OTHER if self.kind == RECORDING else self.kind

    def sounds(self, first: int, step: int, count: int) -> np.ndarray:
        """What sounds in each of `count` steps, one after another.

        Args:
            first: Sample that the first one starts at.
            step: Samples of each.
            count: How many.

        Returns:
            str [count]: `words` where one is said that the truth or the side file
            knows; `silence` where it is quieter than QUIET_DBFS; else what the tape is
            of, or its bed.
        """
        part = self.pcm[first : first + step * count]
        rows = np.zeros((count, step), np.int16)
        rows.reshape(-1)[: len(part)] = part
        power = np.concatenate(
            [
                np.square(some, dtype=np.float32).mean(axis=1)
                for some in np.array_split(rows, count // 4096 + 1)
            ]
        )
        quiet = power < (32768 * 10 ** (QUIET_DBFS / 20)) ** 2
        found = np.where(quiet, QUIET, self.bed).astype(object)
        words = self.windows + (self.said if self.kind == WORDS else [])
        for window in words:
            begin, end = (
                min(max(0.0, (time_s * SAMPLE_RATE - first) / step), float(count))
                for time_s in (window.start_s, window.end_s)
            )
            found[math.floor(begin) : math.ceil(end)] = WORDS
        return found.astype(str)

    def text_at(self, start_s: float, end_s: float) -> str:
        """What is known to be said between two times; empty where nothing is."""
        return " ".join(
            w.word for w in self.said if w.start_s < end_s and w.end_s > start_s
        )


@dataclass(frozen=True)
class Score:
    """How a detector did on a tape.

    Args:
        hits: Windows whose word was heard.
        misses: Windows whose word was not.
        false_alarms: Events that no window explains.
        hours: Length of the tape.
        per_word: word -> (hits, misses, false alarms).
    """

    hits: int
    misses: int
    false_alarms: int
    hours: float
    per_word: dict[str, tuple[int, int, int]]

    @property
    def miss_rate(self) -> float:
        total = self.hits + self.misses
        return self.misses / total if total else 0.0

    @property
    def false_alarms_per_hour(self) -> float:
        return self.false_alarms / self.hours if self.hours else 0.0

    @property
    def false_alarms_per_hour_ci95(self) -> tuple[float, float]:
        """Exact Poisson interval; up to 3.69 / hours where none was seen."""
        low, high = poisson_interval(self.false_alarms)
        return (low / self.hours, high / self.hours) if self.hours else (0.0, math.inf)


def build(
    pcm: np.ndarray,
    label: np.ndarray,
    labels: Sequence[str],
    noises: Sequence[np.ndarray],
    seconds: float = 600.0,
    seed: int = 1,
    keywords_per_minute: float = 4.0,
    unknown_per_minute: float = 12.0,
    snr_db: tuple[float, float] = (5.0, 25.0),
    noise_dbfs: float = -45.0,
    reverberation_s: tuple[float, float] | None = None,
    clip_names: Sequence[str] | None = None,
) -> Tape:
    """Lay clips at random times, none over another, on a bed of changing noise.

    Args:
        pcm: int16 [N, samples], as in a ClipSet.
        label: int32 [N].
        labels: Label names; clips of `_silence_` are not used.
        noises: int16 arrays for the bed, 10 to 20 s of one after another with half a
            second of cross-fade; without any the bed is faint white noise.
        seconds: Length of the tape.
        seed: Of everything that is drawn.
        keywords_per_minute: How many keywords.
        unknown_per_minute: How many other words.
        snr_db: Lowest and highest loudness of a word over the bed, in dB; on a loud bed
            less, so that no word is clipped, which is said on stderr.
        noise_dbfs: Loudness of the bed, in dB of full scale.
        reverberation_s: Each word is said in a room whose sound dies away (by 60 dB)
            in a time between these; None: as it was recorded.
        clip_names: Of the clips, as in a ClipSet: the tape then says which were laid.

    Returns:
        The tape; a window spans the part of the clip that holds 98 % of its energy.

    Raises:
        KwsError: more words than seconds, or no clips to lay.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 4]))
    rooms = np.random.Generator(np.random.PCG64([seed, 5]))
    size = int(seconds * SAMPLE_RATE)
    names = np.array([labels[i] for i in label])
    keywords = np.flatnonzero((names != SILENCE) & (names != UNKNOWN))
    others = np.flatnonzero(names == UNKNOWN)
    wanted = round(keywords_per_minute * seconds / 60)
    unwanted = round(unknown_per_minute * seconds / 60) if len(others) else 0
    slot = pcm.shape[1] + SAMPLE_RATE // 2  # a clip and at least half a second
    slots = size // slot
    if wanted + unwanted > slots or (wanted and not len(keywords)):
        raise KwsError(
            f"The tape can't hold the words: {slots} places in {seconds:g} s, "
            f"{len(keywords)} keyword clips. Received: {wanted} keywords and "
            f"{unwanted} other words",
            "Make a longer tape, or ask for fewer words per minute.",
        )
    tape = _bed(noises, size, noise_dbfs, rng)
    bed_rms = 32768 * 10 ** (noise_dbfs / 20)
    places = np.sort(rng.permutation(slots)[: wanted + unwanted])
    is_keyword = rng.permutation(wanted + unwanted) < wanted
    windows, said, softer = [], [], 0
    for place, keyword in zip(places, is_keyword, strict=True):
        pool = keywords if keyword else others
        which = int(pool[int(rng.integers(len(pool)))])
        start = int(place) * slot + int(rng.integers(0, SAMPLE_RATE // 2))
        over_db = float(rng.uniform(*snr_db))
        clip = pcm[which].astype(np.float32)
        first, last = _spoken_part(clip)
        if reverberation_s is not None:
            clip = _in_a_room(clip, float(rooms.uniform(*reverberation_s)), rooms)
        loudness = math.sqrt(float(np.mean(clip[first:last] ** 2))) if last else 0.0
        if loudness == 0:
            continue
        level = bed_rms * 10 ** (over_db / 20)
        drawn_db = over_db
        if level > LOUDEST:  # on a loud bed
            level = LOUDEST
            over_db = 20 * math.log10(level / bed_rms)
        end = min(size, start + len(clip))
        part = clip[: end - start] * np.float32(level / loudness)
        share = _unclipped(part, tape[start:end])
        if share < 1:
            part *= np.float32(share)
            over_db += 20 * math.log10(share)
        softer += over_db < drawn_db
        tape[start:end] += part
        name = clip_names[which] if clip_names is not None else ""
        window = Window(
            str(names[which]),
            (start + first) / SAMPLE_RATE,
            (start + last) / SAMPLE_RATE,
            round(over_db, 3),
            name,
        )
        said.append(replace(window, word=_word_of(name) or window.word))
        if keyword:
            windows.append(window)
    if softer:
        audio.say(
            f"{softer} of {len(said)} words are laid softer than was drawn from "
            f"--snr-db, so as not to be clipped: the bed, {noise_dbfs:g} dBFS, is loud"
        )
    heard = np.clip(np.rint(tape), -32768, 32767).astype(np.int16)
    return Tape(heard, windows, said=said)


def of_sounds(sounds: Sequence[Sound], seconds: float | None = None) -> Tape:
    """A tape of ambient recordings, one after another as they are, without keywords.

    Args:
        sounds: Of one kind (kws.data.ambient.recordings).
        seconds: The most that is taken; None: all.

    Raises:
        KwsError: no recordings, or of several kinds.
    """
    kinds = sorted({sound.kind for sound in sounds})
    if len(kinds) != 1:
        kind = kinds[0] if kinds else "speech"
        raise KwsError(
            "A tape without words is of one kind of sound. "
            f"Received: {', '.join(kinds) or 'no recordings'}",
            f"kws data tape --out {quoted(f'{kind}.wav')} --ambient DIR "
            f"--kind {quoted(kind)} --no-words",
        )
    said, at = [], 0
    for sound in sounds:
        end = at + len(sound.pcm)
        if sound.text:
            said.append(Window(sound.text, at / SAMPLE_RATE, end / SAMPLE_RATE))
        at = end
    pcm = np.concatenate([sound.pcm for sound in sounds])
    if seconds is not None:
        pcm = pcm[: int(seconds * SAMPLE_RATE)]
        said = [window for window in said if window.start_s < len(pcm) / SAMPLE_RATE]
    return Tape(pcm, [], kinds[0], said)


@dataclass(frozen=True)
class Judged:
    """What became of each event and of each window: indices.

    Args:
        hits: (event, window) of words that were said and heard.
        false_alarms: Events that no window explains.
        misses: Windows whose word was not heard.
    """

    hits: list[tuple[int, int]]
    false_alarms: list[int]
    misses: list[int]


def judge(
    events: Sequence[tuple[str, float]],
    windows: Sequence[Window],
    tolerance_s: float = TOLERANCE_S,
    repeat_s: float = REPEAT_S,
) -> Judged:
    """Compare events with truth.

    An event hits a window of its word if its time lies in
    [start, end + tolerance_s]; of several such windows the earliest that is not yet
    hit. An event of the same word within `repeat_s` of the last one that counted is
    the same event. Anything else is a false alarm, also a late second event of a
    window.

    Args:
        events: (word, seconds), in any order.
        windows: Truth.
        tolerance_s: How late an event may come.
        repeat_s: How close two events of one word count as one.
    """
    said: dict[str, list[int]] = {}
    for i in sorted(range(len(windows)), key=lambda i: windows[i].start_s):
        said.setdefault(windows[i].word, []).append(i)
    # Of each word: the first place in `said` that a later event can still hit.
    first = dict.fromkeys(said, 0)
    hit = [False] * len(windows)
    judged = Judged([], [], [])
    last: dict[str, float] = {}
    for event in sorted(range(len(events)), key=lambda i: events[i][1]):
        word, time_s = events[event]
        mine, at = said.get(word, []), first.get(word, 0)
        while at < len(mine) and (
            hit[mine[at]] or windows[mine[at]].end_s + tolerance_s < time_s
        ):
            at += 1
        first[word] = at
        open_ = at < len(mine) and windows[mine[at]].start_s <= time_s
        # A repeat may still be the first event of a word said again at once.
        if open_:
            hit[mine[at]] = True
            judged.hits.append((event, mine[at]))
        elif word in last and time_s - last[word] <= repeat_s:
            continue  # measured from the event that counted: a stuck detector shows
        else:
            judged.false_alarms.append(event)
        last[word] = time_s
    judged.misses.extend(i for i, heard in enumerate(hit) if not heard)
    return judged


def score(
    events: Iterable[tuple[str, float]],
    windows: Sequence[Window],
    hours: float,
    tolerance_s: float = TOLERANCE_S,
    repeat_s: float = REPEAT_S,
) -> Score:
    """Count what `judge` says.

    Args:
        events: (word, seconds), in any order.
        windows: Truth.
        hours: Length of the recording.
        tolerance_s: How late an event may come.
        repeat_s: How close two events of one word count as one.
    """
    heard = list(events)
    judged = judge(heard, windows, tolerance_s, repeat_s)
    counts: dict[str, list[int]] = {window.word: [0, 0, 0] for window in windows}
    for _, window in judged.hits:
        counts[windows[window].word][0] += 1
    for window in judged.misses:
        counts[windows[window].word][1] += 1
    for event in judged.false_alarms:
        counts.setdefault(heard[event][0], [0, 0, 0])[2] += 1
    table = {word: (h, m, f) for word, (h, m, f) in sorted(counts.items())}
    return Score(
        hits=len(judged.hits),
        misses=len(judged.misses),
        false_alarms=len(judged.false_alarms),
        hours=hours,
        per_word=table,
    )


def figures(score: Score) -> dict[str, Any]:
    """The figures of a score, with intervals."""
    words = score.hits + score.misses
    return {
        "hours": score.hours,
        "words": words,
        "missed": score.misses,
        "miss_rate": score.miss_rate,
        "miss_rate_ci95": list(wilson_interval(score.misses, words)) if words else None,
        "false_alarms": score.false_alarms,
        "false_alarms_per_hour": score.false_alarms_per_hour,
        "false_alarms_per_hour_ci95": list(score.false_alarms_per_hour_ci95),
    }


def total(scores: Sequence[Score]) -> Score:
    """Scores added up."""
    per_word: dict[str, tuple[int, int, int]] = {}
    for score in scores:
        for word, (hits, misses, alarms) in score.per_word.items():
            h, m, f = per_word.get(word, (0, 0, 0))
            per_word[word] = (h + hits, m + misses, f + alarms)
    return Score(
        hits=sum(score.hits for score in scores),
        misses=sum(score.misses for score in scores),
        false_alarms=sum(score.false_alarms for score in scores),
        hours=sum(score.hours for score in scores),
        per_word=dict(sorted(per_word.items())),
    )


def describe(score: Score) -> str:
    """One line for people: hours, words, misses, false alarms an hour, intervals.

    Example:
        >>> print(describe(Score(9, 1, 4, 2.0, {})))
        2.00 h, 10 words: 1 missed = 10.0 % (95 %: 1.8 to 40.4); 4 false alarms = 2.00 \
an hour (95 %: 0.54 to 5.12)
    """
    return describe_figures(figures(score))


def describe_figures(table: dict[str, Any]) -> str:
    """`describe`, of what `figures` gave."""
    text = f"{table['hours']:.2f} h, "
    if table["words"]:
        low, high = (100 * x for x in table["miss_rate_ci95"])
        text += (
            f"{table['words']} words: {table['missed']} missed = "
            f"{100 * table['miss_rate']:.1f} % (95 %: {low:.1f} to {high:.1f}); "
        )
    low, high = table["false_alarms_per_hour_ci95"]
    return text + (
        f"{table['false_alarms']} false alarms = {table['false_alarms_per_hour']:.2f} "
        f"an hour (95 %: {low:.2f} to {high:.2f})"
    )


def truth(windows: Sequence[Window]) -> bytes:
    """Truth as TSV: start and end in seconds, word."""
    lines = ["start_s\tend_s\tword"]
    lines += [f"{w.start_s:.4f}\t{w.end_s:.4f}\t{w.word}" for w in windows]
    return ("\n".join(lines) + "\n").encode()


def write_windows(path: Path, windows: Sequence[Window]) -> None:
    """`truth` into a file."""
    write_atomic(path, truth(windows))


def read_windows(path: Path) -> list[Window]:
    """Truth from a table (start and end in seconds, word) or JSON (a list of objects
    with word, start_s, end_s).

    An entry that comes twice counts once, which is said on stderr.

    Tables may have tabs, semicolons or commas between their columns, decimal commas,
    and a header that names the columns in any order; Audacity's label tracks are such
    tables.

    Raises:
        KwsError: no such file, too large, a broken line.
    """
    hint = (
        "A line per word: start_s <TAB> end_s <TAB> word; an empty file where none of "
        "the words is said"
    )
    if not path.is_file() or path.stat().st_size > MAX_TSV_BYTES:
        raise KwsError(
            f"No truth file for the tape. Expected {path.name} (a table or .json, at "
            f"most {MAX_TSV_BYTES} bytes). Received: {path}",
            hint,
        )
    text = names.read_text(path, MAX_TSV_BYTES)
    windows: list[Window] = []
    try:
        if path.suffix.lower() == ".json":
            rows = _json_rows(json.loads(text))
        else:
            rows = _table_rows(names.table(text))
        for row in rows:
            windows.append(_window(row))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise KwsError(
            f"The truth file is broken at entry {len(windows) + 1}: {error}. "
            f"Received: {path}",
            hint,
        ) from None
    once = {_place(window): window for window in windows}
    if again := len(windows) - len(once):
        audio.say(
            f"{path}: {again} {'entry says' if again == 1 else 'entries say'} the same "
            "word at the same time as another: counted once"
        )
    return sorted(once.values(), key=lambda window: window.start_s)


def _json_rows(said: Any) -> list[list[str]]:
    if isinstance(said, dict):  # as `kws data synth --stream --json` prints it
        said = said["windows"]
    return [[str(row[k]) for k in ("start_s", "end_s", "word")] for row in said]


def _table_rows(rows: list[list[str]]) -> list[list[str]]:
    """Rows of start, end, word, out of a table with a header or without one."""
    if not rows or any(names.number(cell) is not None for cell in rows[0]):
        return rows
    columns: dict[str, int] = {}
    in_ms: set[int] = set()
    lasts = ""  # a column of durations
    for place, cell in enumerate(rows[0]):
        words = set(re.sub(r"[^a-z0-9]+", " ", cell.lower()).split())
        for name, spellings in _COLUMNS.items():
            if words & spellings:
                columns.setdefault(name, place)
        if words & {"ms", "msec", "milliseconds"}:
            in_ms.add(place)
        elif words & {"sample", "samples", "frame", "frames"}:
            raise ValueError(f"times in seconds were expected, not {cell!r}")
        elif words & {"duration", "length"}:
            lasts = cell
    if lasts and "end" not in columns:
        raise ValueError(f"times of start and end were expected, not {lasts!r}")
    if set(columns) != set(_COLUMNS):
        digits = any(cell[:1].isdigit() for cell in rows[0])
        if len(rows) == 1 or len(rows[0]) < len(_COLUMNS) or digits:
            return rows  # a text, or times that can't be read: named as broken
        # A header in another language: the order is then the usual one.
        columns = {"start": 0, "end": 1, "word": 2}
    out = []
    for row in rows[1:]:
        if len(row) <= max(columns.values()):
            out.append(row)  # named as broken
            continue
        cells = [row[columns[name]] for name in ("start", "end", "word")]
        for place, name in enumerate(("start", "end")):
            time = names.number(cells[place])
            if columns[name] in in_ms and time is not None:
                cells[place] = repr(time / 1000)
        out.append(cells)
    return out


def _window(row: list[str]) -> Window:
    if len(row) != 3:
        commas = ", decimal commas and commas between the fields?" * (len(row) == 5)
        raise ValueError(f"3 fields were expected, not {len(row)}{commas}: {row!r}")
    start, end, word = names.number(row[0]), names.number(row[1]), row[2]
    if start is None or end is None or not 0 <= start <= end < math.inf:
        raise ValueError(f"{row[0]}..{row[1]} are no times in seconds, in order")
    if not word.strip():
        raise ValueError(f"no word from {start:g} to {end:g} s")
    return Window(names.composed(word), start, end)


def asked_for(windows: Sequence[Window], labels: Sequence[str]) -> list[Window]:
    """The windows of words that a network knows, each spelled as its label.

    `Yes`, `hey_robot` and a letter with its mark apart are the labels `yes`,
    `hey robot` and the composed letter. Words that the network was not asked for are
    left out, and said on stderr.
    """
    keywords = [label for label in labels if label not in (SILENCE, UNKNOWN)]
    label_of = {names.key(label): label for label in keywords}
    known, others = [], Counter[str]()
    for window in windows:
        label = label_of.get(names.key(window.word))
        if label is not None:
            known.append(replace(window, word=label))
        elif window.word not in (SILENCE, UNKNOWN):
            others[window.word] += 1
    if others:
        shown = ", ".join(
            f"{word!r} ({count}{_close(word, keywords)})"
            for word, count in others.most_common(5)
        )
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        audio.say(f"The truth has words that the network does not know: {shown}{more}")
    return known


def without_words(recordings: Iterable[object], labels: Sequence[str]) -> KwsError:
    """The error of tapes on which no word of a network's is said.

    Args:
        recordings: Their names.
        labels: The network's; the hint makes a tape of its words.
    """
    words = ",".join(label for label in labels if label not in (SILENCE, UNKNOWN))
    return KwsError(
        "No word of the network's is said on the tapes. Expected some, to count "
        f"misses. Received: {', '.join(map(str, recordings)) or 'none'}",
        f"kws data tape --words {quoted(words)} --out tapes/words.wav",
    )


def _close(word: str, labels: Sequence[str]) -> str:
    near = difflib.get_close_matches(names.key(word), labels, 1, 0.8)
    return f", did you mean {near[0]!r}?" if near else ""


def save(tape: Tape, path: Path, again: str = "") -> None:
    """Write the tape as .wav, its truth as .tsv beside it, and into .tape.json what
    else is known of it: its kind, how it was made, and all that is said.

    Args:
        tape: The tape.
        path: The .wav.
        again: What to type where other files are there; empty: they are written over.
    """
    table = {
        "kind": tape.kind,
        "made": tape.made,
        "windows": [[window.snr_db, window.clip] for window in tape.windows],
        "said": [
            [round(w.start_s, 4), round(w.end_s, 4), w.word, w.clip] for w in tape.said
        ],
    }
    files = {path: wav_bytes(tape.pcm), path.with_suffix(".tsv"): truth(tape.windows)}
    about = (json.dumps(table) + "\n").encode()
    write_all({**files, path.with_suffix(SIDE): about}, again)


def files(paths: Sequence[Path]) -> list[Path]:
    """The recordings meant: files as they are, of a folder all that are in it; each
    once, however often it is named. Those in its sub-folders are said on stderr.

    Raises:
        KwsError: a folder without recordings.
    """
    found: list[Path] = []
    for path in paths:
        inside = audio.contents(path)[0] if path.is_dir() else [path]
        below = _below(path)
        if not inside:
            where = f" (not {_counted(below)})" if below else ""
            raise KwsError(
                "A folder without tapes. Expected recordings with their truth beside "
                f"them{where}. Received: {str(path)!r}",
                f"--tape {quoted(next(iter(below)))}"
                if below
                else f"kws data tape --out {quoted(path / 'tape.wav')}",
            )
        if below:
            audio.say(
                f"{path}: {_counted(below)} not read: name such folders with --tape"
            )
        found += inside
    once: dict[Path, Path] = {}
    for path in found:
        if once.setdefault(path.resolve(), path) is not path:
            audio.say(f"{path}: named twice, heard once")
    return list(once.values())


def _below(folder: Path) -> dict[Path, int]:
    """Sub-folders, at any depth, with recordings in them, and how many."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        count = sum(audio.is_audio(Path(name)) for name in files)
        if count and Path(place) != folder:
            found[Path(place)] = count
    return found


def _counted(below: dict[Path, int]) -> str:
    several = "s" if sum(below.values()) > 1 else ""
    places = some([str(place) for place in below])
    return f"{sum(below.values())} recording{several} in {places}"


def open_tape(path: Path, truth: Path | None = None) -> Tape:
    """Read a recording of any format, and its truth: `truth`, or the .tsv, .csv, .txt
    or .json of the same name beside it.

    Raises:
        KwsError: no such recording, no truth, or a truth of another recording.
    """
    silent, truth = _without_sound(path, truth)
    pcm = audio.samples(path, 48 * 3600.0)
    seconds = len(pcm) / SAMPLE_RATE
    late = [window for window in silent.windows if window.start_s >= seconds]
    if late:
        raise KwsError(
            f"The truth goes on after the recording: expected words within its "
            f"{seconds:.1f} s. Received: {late[0].word!r} at {late[0].start_s:.1f} s, "
            f"and {len(late) - 1} more in {truth}",
            "Check that it is the truth of this recording, in seconds.",
        )
    return replace(silent, pcm=pcm)


def check(paths: Iterable[Path], truth: Path | None = None) -> None:
    """See that every recording and its truth are there, before hours of sound are read.

    Args:
        paths: From `files`.
        truth: As in `open_tape`.

    Raises:
        KwsError: no such recording, no truth, or one that can't be read.
    """
    for path in paths:
        _without_sound(path, truth)


def _without_sound(path: Path, truth: Path | None) -> tuple[Tape, Path]:
    """All that is known of a tape but its samples, and the file of its truth."""
    if not path.is_file():
        raise KwsError(
            f"No such recording. Expected a recording (.wav, .flac, .mp3 and more). "
            f"Received: {str(path)!r}",
            'kws data synth --words "yes,no,yes" --stream tape.wav',
        )
    if truth is None:
        beside = [path.with_suffix(suffix) for suffix in TRUTHS]
        there = [file for file in beside if file.is_file()] or beside[:1]
        truth = there[0]
        if len(there) > 1:
            rest = ", ".join(file.name for file in there[1:])
            audio.say(f"The truth is taken from {truth.name}, not from {rest}")
    windows = read_windows(truth)
    tape = Tape(np.zeros(0, np.int16), windows, WORDS if windows else RECORDING)
    side = path.with_suffix(SIDE)
    return (_with_side(tape, side) if side.is_file() else tape), truth


def opened(
    paths: Iterable[Path], labels: Sequence[str], truth: Path | None = None
) -> Iterator[tuple[str, Tape]]:
    """Name and tape of each recording, one at a time, for a network to hear.

    Its words that are known to be said where the truth has none, as on a tape that was
    made for other words, are said on stderr: heard, they count as false alarms.

    Args:
        paths: From `files`.
        labels: The network's.
        truth: As in `open_tape`.

    Raises:
        KwsError: at once what `check` raises, of any of them.
    """
    every = list(paths)
    check(every, truth)
    return _one_by_one(every, labels, truth)


def _one_by_one(
    paths: Sequence[Path], labels: Sequence[str], truth: Path | None
) -> Iterator[tuple[str, Tape]]:
    for path in paths:
        tape = open_tape(path, truth)
        _tell_of_words(path, tape, labels)
        yield str(path), tape


def _tell_of_words(path: Path, tape: Tape, labels: Sequence[str]) -> None:
    keywords = [label for label in labels if label not in (SILENCE, UNKNOWN)]
    spans: dict[str, list[tuple[float, float]]] = {}
    for window in tape.windows:
        spans.setdefault(names.key(window.word), []).append(
            (window.start_s, window.end_s)
        )
    times = {word: np.array(rows) for word, rows in spans.items()}
    found, texts = Counter[str](), 0
    for said in tape.said:
        unknown = []
        for word in words_in(said.word, keywords):
            start_s, end_s = times.get(names.key(word), np.zeros((0, 2))).T
            if not ((start_s <= said.end_s) & (end_s >= said.start_s)).any():
                unknown.append(word)
        found.update(unknown)
        texts += bool(unknown)
    if not found:
        return
    words = ", ".join(f"{word!r} ({count})" for word, count in found.most_common(5))
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    split = tape.made.get("split")
    command = ["kws", "data", "tape", "--words", ",".join(keywords)]
    command += ["--split", split if split in SPLITS else SPLITS[1]]
    if tape.kind != WORDS:
        command += ["--ambient", "DIR", "--kind", tape.kind, "--no-words"]
    command += ["--out", str(path.with_name(f"{path.stem}-new.wav"))]
    audio.say(
        f"{path}: words of the network are said in {texts} of the texts that are known "
        f"of it, and its truth does not have them: {words}{more}. Heard there, they "
        f"count as FALSE ALARMS. Make a tape for these words: {shlex.join(command)}"
    )


def _with_side(tape: Tape, path: Path) -> Tape:
    """The tape with what its side file knows of it."""
    try:
        table = json.loads(names.read_text(path, MAX_TSV_BYTES))
        kind, made = str(table["kind"]), dict(table["made"])
        said = [
            Window(str(t), _finite(a), _finite(b), None, str(c))
            for a, b, t, c in table["said"]
        ]
        details = [
            (None if s is None else _finite(s), str(c)) for s, c in table["windows"]
        ]
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise KwsError(
            f"What is known of the tape can't be read: {error}. Received: {path}",
            f"rm {quoted(path)}   (the truth is not in it)",
        ) from None
    laid, windows, others = _laid(said, details), [], 0
    for window in tape.windows:
        snr_db, clip = laid.get(_place(window), (None, ""))
        windows.append(replace(window, snr_db=snr_db, clip=clip))
        others += _place(window) not in laid
    if others and set(details) - {(None, "")}:  # a truth that was edited
        audio.say(
            f"{path}: {others} of {len(windows)} words of the truth are not as they "
            "were laid: their clips, and how loud they are, are not known"
        )
    return Tape(tape.pcm, windows, kind, said, made)


def _place(window: Window) -> tuple[float, float, str]:
    """Start, end and word, the same of the truth and of the side file."""
    return round(window.start_s, 4), round(window.end_s, 4), names.key(window.word)


def _laid(
    said: Sequence[Window], details: Sequence[tuple[float | None, str]]
) -> dict[tuple[float, float, str], tuple[float | None, str]]:
    """Where each word of the truth was laid -> its loudness and clip.

    Args:
        said: All that was laid.
        details: Of the truth's words among it, in the same order.
    """
    found = {}
    rest = iter(said)
    for snr_db, clip in details:
        mine = (w for w in rest if w.clip == clip and w.word != UNKNOWN)
        if (window := next(mine, None)) is not None:
            found[_place(window)] = snr_db, clip
    return found


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no number")
    return number


def _word_of(name: str) -> str:
    """The word that a clip's name tells: its folder's; of `_unknown_/bed_ann.wav` bed.

    Example:
        >>> [_word_of(name) for name in ("bed/ann.wav", "_unknown_/bed_ann.wav")]
        ['bed', 'bed']
    """
    folder, _, file = name.partition("/")
    return file.partition("_")[0] if folder.startswith("_") else folder


def _in_a_room(
    clip: np.ndarray, decay_s: float, rng: np.random.Generator
) -> np.ndarray:
    """What is heard of a clip in a room: the direct sound, and noise that dies away by
    60 dB in `decay_s`, of a twentieth to all of its energy. The tail goes on after the
    clip."""
    reverberation = 10 ** (rng.uniform(-13, 0) / 20)
    tail = rng.standard_normal(max(2, int(decay_s * SAMPLE_RATE)), dtype=np.float32)
    tail *= np.exp(-6.9 * np.arange(len(tail), dtype=np.float32) / len(tail))
    tail *= np.float32(reverberation) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    size = len(clip) + len(tail)
    spectrum = np.fft.rfft(clip, size) * np.fft.rfft(tail, size)
    return np.fft.irfft(spectrum, size).astype(np.float32)


def _unclipped(clip: np.ndarray, bed: np.ndarray) -> float:
    """The share of a clip's gain with which it isn't clipped on its bed; 1: all of it.

    Where the bed alone is near full scale or beyond it, the clip keeps HEADROOM.
    """
    both = np.rint(clip + bed)
    over = (both > 32767) & (clip > 0) | (both < -32768) & (clip < 0)
    room = 32767 - np.sign(clip[over]) * bed[over]
    shares = np.maximum(room, HEADROOM) / np.abs(clip[over])
    return float(shares.min(initial=1.0))


def _spoken_part(clip: np.ndarray) -> tuple[int, int]:
    """First and last sample of the part with 98 % of the energy."""
    energy = np.cumsum(clip.astype(np.float64) ** 2)
    if not len(energy) or energy[-1] == 0:
        return 0, 0
    first, last = np.searchsorted(energy, [0.01 * energy[-1], 0.99 * energy[-1]])
    return int(first), min(int(last) + 1, len(clip))


def _bed(
    noises: Sequence[np.ndarray], size: int, dbfs: float, rng: np.random.Generator
) -> np.ndarray:
    level = 32768 * 10 ** (dbfs / 20)
    if not noises:
        return (rng.standard_normal(size) * level).astype(np.float32)
    fade = SAMPLE_RATE // 2
    ramp = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    bed = np.zeros(size + fade, dtype=np.float32)
    position = 0
    while position < size:
        noise = noises[int(rng.integers(len(noises)))]
        length = min(int(rng.uniform(10, 20) * SAMPLE_RATE), len(noise))
        at = int(rng.integers(0, len(noise) - length + 1))
        piece = noise[at : at + length].astype(np.float32)
        piece *= level / max(1.0, math.sqrt(float(np.mean(piece**2))))
        if len(piece) >= 2 * fade:
            piece[:fade] *= ramp
            piece[-fade:] *= ramp[::-1]
        end = min(position + len(piece), len(bed))
        bed[position:end] += piece[: end - position]
        position += max(len(piece) - fade, 1)
    return bed[:size]
