"""What a person is asked to say, and the clips that come of it: `kws data record`.

Beside the words come phrases that are nearly those (they become unknown words), and the
room without a word. A recording is checked as it arrives, and its word is cut out as
`kws data import` does it. What was recorded before counts, and is never written over.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import secrets
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.data import audio, names, sheet, takes
from kws.data import near as sounds
from kws.data.audio import SAMPLE_RATE
from kws.data.cut import Take
from kws.data.speech_commands import check_words, clips_in, folder_of
from kws.data.splits import speaker_of
from kws.data.voices import espeak
from kws.errors import KwsError, quoted

WORD, OTHER, ROOM = "word", "other", "room"  # kinds of prompts
WORD_S, PHRASE_S = 2.0, 2.5  # of a recording
LONGER_S = 0.1  # a recording than its clip, at least
RATES = (8000, 192_000)  # Hz
ROOM_S = (10, 60)  # less can't be cut in three for the splits
QUIET_DB = -50.0  # a word below that was said too far away, of full scale
SILENT_DB = -60.0  # the loudest sample of a microphone that hears nothing
CLIPPED_S = 0.002  # more at full scale is heard as distortion
EDGE_S = 0.03  # a word that begins or ends there was cut
TURN = 5  # clips of one prompt before another has its turn
MOST_NEAR = 8
ALIKE = 6  # words that sound like a single one
MOST_CLIPS = 1000  # of one speaker and prompt
LONGEST_NAME = 40
OURS = ("import.json", "corpus.json")  # corpora that are made as a whole


@dataclass(frozen=True)
class Prompt:
    """Something to say, or the room to be recorded.

    Args:
        kind: WORD, OTHER (nearly a word) or ROOM.
        text: What is said; of a room, what it is called.
        folder: Where its clips go, below the corpus.
        wanted: How many clips of a speaker are enough.
        seconds: Length of a recording.
        turn: When it comes; a word comes again after every TURN clips of it.
    """

    kind: str
    text: str
    folder: str
    wanted: int
    seconds: float
    turn: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What became of a recording.

    Args:
        problem: Why nothing was kept; '' where a clip was written.
        advice: What to do about it.
        clip: Its number in this session; -1 where there is none.
        name: Of the clip, below the corpus.
        wave: Its waveform, as an SVG path (kws/data/sheet.py).
        level_db: Loudness of what was said, dB of full scale.
        done: Clips of this speaker and prompt now.
    """

    problem: str = ""
    advice: str = ""
    clip: int = -1
    name: str = ""
    wave: str = ""
    level_db: float = -100.0
    done: int = 0


def near(words: Sequence[str], count: int = MOST_NEAR) -> tuple[str, ...]:
    """Phrases that are nearly words, for a network to learn the difference.

    Of phrases: their parts, turned round, and parts of two mixed. Of single words:
    common English words that sound alike; that are spelled alike where no eSpeak NG
    tells how words sound.

    Example:
        >>> near(["hey robot"])
        ('hey', 'robot', 'robot hey')
    """
    parts = [word.split(" ") for word in words]
    found = [part for split in parts if len(split) > 1 for part in split]
    found += [" ".join(reversed(split)) for split in parts if len(split) > 1]
    several = [split for split in parts if len(split) > 1]
    found += [f"{a[0]} {b[-1]}" for a in several for b in several if a is not b]
    single = [split[0] for split in parts if len(split) == 1 and split[0].isascii()]
    rows = [_alike(word) for word in single]
    found += [row[n] for n in range(ALIKE) for row in rows if n < len(row)]
    taken = {names.key(word) for word in words}
    unlike = dict.fromkeys(text for text in found if names.key(text) not in taken)
    return tuple(unlike)[:count]


def _alike(word: str) -> list[str]:
    try:
        linguist = espeak.start()
        return sounds.alike([word], lambda text: linguist.ipa(text, "en-us"), ALIKE)
    except (KwsError, OSError):
        return difflib.get_close_matches(word, sounds.common_words(), ALIKE, 0.3)


def prompts(
    words: Sequence[str],
    wanted: int = 20,
    others: Sequence[str] | None = None,
    others_wanted: int = 5,
    room_s: float = 30.0,
    clip_seconds: float = 1.0,
) -> tuple[Prompt, ...]:
    """What to ask for, in order.

    Args:
        words: The keywords.
        wanted: Clips of each.
        others: Phrases that are nearly words; None: `near`.
        others_wanted: Clips of each of them; 0: none.
        room_s: Length of the two recordings of the room; 0: none.
        clip_seconds: Length of a clip of a word; a recording is longer.

    Raises:
        KwsError: words that can't be folders, or one that comes twice.

    Example:
        >>> [p.text for p in prompts(["go"], others=["no"], room_s=0)]
        ['go', 'no']
    """
    words = check_words(tuple(words))
    if others is None:
        others = near(words)
    if others and others_wanted:
        check_words((*words, *others))
    else:
        others = ()
    if room_s and not ROOM_S[0] <= room_s <= ROOM_S[1]:
        raise KwsError(
            f"A recording of the room takes {ROOM_S[0]} to {ROOM_S[1]} seconds, or 0: "
            f"none. Received: {room_s:g}",
            "--room-seconds 30",
        )
    turns = -(-wanted // TURN)  # of the words; what else there is lies between
    more = clip_seconds - 1
    made = [_said(WORD, word, wanted, 0.0, more) for word in words]
    for n, text in enumerate(others):
        turn = n * turns // len(others) + 0.5
        made.append(_said(OTHER, text, others_wanted, turn, more))
    for text, turn in (("quiet", 0.75), ("lively", turns - 0.25)) if room_s else ():
        made.append(Prompt(ROOM, text, takes.NOISE, 1, float(room_s), turn))
    return tuple(made)


def _said(kind: str, text: str, wanted: int, turn: float, more: float) -> Prompt:
    text = names.composed(text)
    seconds = (PHRASE_S if " " in text or "-" in text else WORD_S) + more
    folder = takes.folder_name(folder_of(text))
    return Prompt(kind, text, folder, wanted, seconds, turn)


class Session:
    """Recordings for a corpus, checked one by one as they arrive.

    Args:
        out: The corpus: a new folder, or one that holds recordings.
        asked: From `prompts`.
        clip_seconds: Length of a clip of a word.

    Raises:
        KwsError: `out` is a corpus that a command makes as a whole, or a file.

    Example:
        >>> session = Session(Path("mine"), prompts(["go"]))
        >>> anna = session.join("Anna", hidden=False)
        >>> session.done(anna)[0]
        0
    """

    def __init__(
        self, out: Path, asked: tuple[Prompt, ...], clip_seconds: float = 1.0
    ) -> None:
        self.out, self.asked, self.clip_seconds = Path(out), asked, clip_seconds
        made = [name for name in OURS if (self.out / name).exists()]
        if made or any(self.out.glob("*/index.tsv")) or self.out.is_file():
            raise KwsError(
                "The folder to record into holds something else. Expected a new "
                f"folder, or one of recordings. Received: {str(out)!r}"
                + (f" with {made[0]}" if made else ""),
                f'kws data record "{asked[0].text}" '
                f"--out {quoted(f'{out}-recorded')}   (then "
                f"train with --data {quoted(f'{out}-recorded')} --also {quoted(out)})",
            )
        if (self.out / "bundle.json").is_file():
            raise KwsError(
                "The folder to record into is a run. Expected a new folder, or one of "
                f"recordings. Received: {str(out)!r}",
                f'kws data record "{asked[0].text}" --out {quoted(f"{out}-recorded")}',
            )
        if self.out.is_dir() and (clips := clips_in(self.out)):
            raise KwsError(
                "The folder to record into holds clips itself, as a word's folder "
                "does. Expected the folder that holds the words' folders. Received: "
                f"{str(out)!r} with {clips[0].name}",
                f'kws data record "{asked[0].text}" '
                f"--out {quoted(self.out.resolve().parent)}",
            )
        self.made: list[Path] = []  # clips of this session
        self._by_sound: dict[str, int] = {}
        self._joined: set[str] = set()
        self._lock = threading.RLock()

    def speakers(self) -> list[str]:
        """Who has recorded here: from the names of the clips of what is asked for."""
        files = [f for p in self.asked if p.kind != ROOM for f in self._clips(p)]
        found = {speaker_of(f.stem) for f in files if "_nohash_" in f.stem}
        return sorted(found | self._joined)

    def join(self, name: str, hidden: bool) -> str:
        """Who is going to speak.

        Args:
            name: As chosen; '' draws one.
            hidden: Write eight digits of its hash into the files' names instead.

        Returns:
            What stands for the speaker in the files' names, spelled as it is there
            already. The name itself is kept nowhere else.

        Raises:
            KwsError: too long a name, or one without a letter or a digit.
        """
        name = names.composed(name)
        if len(name) > LONGEST_NAME:
            raise KwsError(
                f"A speaker's name may have {LONGEST_NAME} letters. "
                f"Received: {len(name)}",
                "Choose a shorter name.",
            )
        with self._lock:
            if not name:
                who = secrets.token_hex(4)
            elif hidden:
                who = hashlib.sha256(name.casefold().encode()).hexdigest()[:8]
            else:
                who = takes.named(name)
                # As two, Anna and anna may be trained on and tested.
                known = [s for s in self.speakers() if names.key(s) == names.key(who)]
                if known and who not in known:
                    who = known[0]
            self._joined.add(who)
        return who

    def done(self, speaker: str) -> list[int]:
        """How many clips of each prompt a speaker has."""
        return [len(self._numbers(prompt, speaker)) for prompt in self.asked]

    def following(
        self, speaker: str, now: int = -1, skipped: Collection[int] = ()
    ) -> int | None:
        """The prompt that comes next; None where all is there, or skipped.

        Args:
            speaker: From `join` or `speakers`.
            now: The prompt that was recorded last; it stays for TURN clips.
            skipped: Prompts to leave out.
        """
        left = {}
        for n, (prompt, done) in enumerate(
            zip(self.asked, self.done(speaker), strict=True)
        ):
            if done < prompt.wanted and n not in skipped:
                if n == now and done % TURN:
                    return n
                again = done // TURN if prompt.kind == WORD else 0
                left[n] = prompt.turn + again
        return min(left, key=lambda n: (left[n], n), default=None)

    def add(self, speaker: str, place: int, pcm: np.ndarray, rate: int) -> Verdict:
        """Check a recording, cut its word out, and write it as a clip.

        Args:
            speaker: From `join` or `speakers`.
            place: Which prompt.
            pcm: int16 [samples], as the microphone gave it.
            rate: Its sample rate, Hz.

        Raises:
            KwsError: no such speaker or prompt, a rate or a length that no page sends.
        """
        prompt = self._check(speaker, place, len(pcm), rate)
        pcm = pcm[: round(prompt.seconds * rate) + rate // 4]
        loudest = _db(float(np.abs(pcm.astype(np.int32)).max()) / 32768)
        clipped = float((np.abs(pcm.astype(np.int32)) >= 32767).sum()) / rate
        at_16k = _resampled(pcm, rate)
        with self._lock:
            done = len(self._numbers(prompt, speaker))
            if loudest < SILENT_DB and (prompt.kind != ROOM or not at_16k.any()):
                return Verdict(
                    "the microphone hears nothing",
                    "Is it muted, or another one chosen?",
                    level_db=loudest,
                    done=done,
                )
            if clipped > CLIPPED_S:
                return Verdict(
                    "too loud: it is clipped",
                    "Go further away, or turn the microphone's level down.",
                    level_db=loudest,
                    done=done,
                )
            if prompt.kind == ROOM:
                return self._keep(prompt, speaker, at_16k, takes.loudness(at_16k))
            return self._word(prompt, speaker, at_16k, loudest, done)

    def remove(self, clip: int) -> list[int]:
        """Delete a clip that was recorded in this session; no other one can be.

        Returns:
            Clips of its speaker of each prompt, as `done`.

        Raises:
            KwsError: there is no such clip, or it is gone.
        """
        with self._lock:
            path = self._made(clip)
            path.unlink()
            sounds = [sound for sound, n in self._by_sound.items() if n == clip]
            for sound in sounds:
                del self._by_sound[sound]
            return self.done(speaker_of(path.stem))

    def clip(self, clip: int) -> bytes:
        """A clip of this session, as it is on the disk.

        Raises:
            KwsError: there is no such clip, or it is gone.
        """
        return self._made(clip).read_bytes()

    def counts(self) -> list[int]:
        """Clips of each prompt, of all speakers."""
        return [len(self._clips(prompt)) for prompt in self.asked]

    def _made(self, clip: int) -> Path:
        if not 0 <= clip < len(self.made) or not self.made[clip].is_file():
            raise KwsError(
                f"There is no such clip any more. Received: {clip}", "Record it again."
            )
        return self.made[clip]

    def _check(self, speaker: str, place: int, samples: int, rate: int) -> Prompt:
        problem = ""
        if speaker not in self.speakers():
            problem = f"a speaker of this corpus. Received: {speaker!r}"
        elif not 0 <= place < len(self.asked):
            problem = f"one of {len(self.asked)} prompts. Received: {place}"
        elif not RATES[0] <= rate <= RATES[1]:
            problem = f"{RATES[0]} to {RATES[1]} samples a second. Received: {rate}"
        else:
            prompt = self.asked[place]
            shortest = self.clip_seconds + LONGER_S
            if prompt.kind == ROOM:
                shortest = ROOM_S[0]
            if samples < shortest * rate:
                problem = f"{shortest:g} s at least. Received: {samples / rate:.2f} s"
            elif len(self._numbers(prompt, speaker)) >= MOST_CLIPS:
                problem = f"at most {MOST_CLIPS} clips of it. Received: one more"
        if problem:
            raise KwsError(
                f"Not a recording: expected {problem}", "Load the page again."
            )
        return prompt

    def _word(
        self,
        prompt: Prompt,
        speaker: str,
        pcm: np.ndarray,
        loudest: float,
        done: int,
    ) -> Verdict:
        """What a recording of a word is worth: one stretch of sound, whole."""

        def refused(problem: str, advice: str) -> Verdict:
            return Verdict(problem, advice, level_db=heard_db, done=done)

        heard_db = loudest
        take = Take(Path("recording"), prompt.text, speaker)
        pieces = list(
            takes.pieces_of(take, pcm, round(self.clip_seconds * SAMPLE_RATE))
        )
        kept = [(piece, clip) for piece, clip in pieces if not piece.problem]
        if len(kept) > 1:
            return refused(
                f"{len(kept)} sounds with a pause between",
                "Say it once, in one go; nothing before it, nothing after.",
            )
        piece, clip = kept[0] if kept else pieces[0]
        first, last = (round(s * SAMPLE_RATE) for s in (piece.start_s, piece.stop_s))
        heard_db = takes.loudness(pcm[first:last])
        if "no word stands out" in piece.problem:
            if loudest < QUIET_DB + 12:  # a word's peaks are so far above its mean
                return refused(*_TOO_QUIET)
            return refused(
                "nothing like a word was heard",
                "Say it after the mark, and nearer to the microphone.",
            )
        if heard_db < QUIET_DB:
            return refused(*_TOO_QUIET)
        if piece.problem:
            return refused(piece.problem, _advice(piece.problem))
        edge = EDGE_S * SAMPLE_RATE
        if first < edge or last > len(pcm) - edge:
            return refused(
                f"cut off at its {'beginning' if first < edge else 'end'}",
                "Speak while the mark runs across.",
            )
        return self._keep(prompt, speaker, clip, heard_db)

    def _keep(
        self, prompt: Prompt, speaker: str, pcm: np.ndarray, level_db: float
    ) -> Verdict:
        sound = hashlib.sha256(pcm.tobytes()).hexdigest()
        if sound in self._by_sound:  # a browser that got no answer may send it again
            number = self._by_sound[sound]
        else:
            number = len(self.made)
            self.made.append(self._write(prompt, speaker, pcm))
            self._by_sound[sound] = number
        return Verdict(
            clip=number,
            name=self.made[number].relative_to(self.out).as_posix(),
            wave=sheet.wave(pcm),
            level_db=level_db,
            done=len(self._numbers(prompt, speaker)),
        )

    def _write(self, prompt: Prompt, speaker: str, pcm: np.ndarray) -> Path:
        """A new file with the next number: no file that is there is opened."""
        folder = self._folder(prompt)
        folder.mkdir(parents=True, exist_ok=True)
        data = audio.wav_bytes(pcm)
        number = max(self._numbers(prompt, speaker), default=-1) + 1
        while True:
            path = folder / f"{_stem(prompt, speaker)}_{number}.wav"
            try:
                file = path.open("xb")
            except FileExistsError:
                number += 1
                continue
            try:
                with file:
                    file.write(data)
            except OSError:  # no room: half a clip is none
                path.unlink()
                raise
            return path

    def _folder(self, prompt: Prompt) -> Path:
        """The folder of a prompt, in whatever spelling it is there."""
        if self.out.is_dir():
            for path in sorted(self.out.iterdir()):
                if path.is_dir() and names.key(path.name) == names.key(prompt.folder):
                    return path
        return self.out / prompt.folder

    def _clips(self, prompt: Prompt) -> list[Path]:
        folder = self._folder(prompt)
        files = clips_in(folder) if folder.is_dir() else []
        if prompt.kind == ROOM:
            return [f for f in files if re.search(rf"_{prompt.text}_\d+$", f.stem)]
        return files

    def _numbers(self, prompt: Prompt, speaker: str) -> list[int]:
        """The numbers of a speaker's clips of a prompt."""
        form = re.compile(re.escape(_stem(prompt, speaker)) + r"_(\d+)")
        found = [form.fullmatch(names.composed(f.stem)) for f in self._clips(prompt)]
        return [int(match[1]) for match in found if match]


_TOO_QUIET = ("too quiet", "Come nearer, or turn the microphone's level up.")


def _advice(problem: str) -> str:
    """What to do about a problem of `takes.pieces_of`."""
    for part, advice in (
        ("too quiet", _TOO_QUIET[1]),
        ("without a pause", "Say it a little faster, and nothing else."),
        ("a click", "Say the word after the mark; don't touch the microphone."),
        ("louder than the room", "Come nearer, or where it is quieter."),
        ("clipped", "Go further away, or turn the microphone's level down."),
    ):
        if part in problem:
            return advice
    return "Say it again."


def _stem(prompt: Prompt, speaker: str) -> str:
    """A clip's name before its number. The speaker comes first, as in a word's."""
    return f"{speaker}_{prompt.text if prompt.kind == ROOM else 'nohash'}"


def _resampled(pcm: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLE_RATE:
        return pcm
    import soxr

    real = soxr.resample(pcm.astype(np.float32), rate, SAMPLE_RATE)
    return np.clip(np.rint(real), -32768, 32767).astype(np.int16)


def _db(share: float) -> float:
    return 20 * float(np.log10(max(share, 1e-5)))
