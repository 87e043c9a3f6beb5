"""Spoken corpora out of text: many voices, rooms, microphones and noises.

Voices come from the engines of kws/data/voices. A voice's speaker id is a hash of its
name, so the data set's SHA-1 rule puts it into the same split in every corpus: what is
tested was never heard in training. Engines of few speakers are training's alone.

The same seed gives the same samples, where eSpeak NG speaks by its library. Another
version of an engine gives others, so the versions are recorded in corpus.json.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from kws.bundle import write_all
from kws.data import audio, names, near, rooms, voices
from kws.data.audio import SAMPLE_RATE, wav_bytes
from kws.data.speech_commands import NOISE_SHARE, check_words, folder_of
from kws.data.tape import Window, truth
from kws.data.voices import BASE, ENGLISH, Speaker, Voice, espeak
from kws.errors import KwsError, quoted

_UNKNOWN_WORDS = (
    "apple window seven paper dog table music water yellow coffee bed river garden "
    "two monday cat pencil forward orange kitchen winter house morning doctor bird "
    "nine summer letter wow zero"
)
UNKNOWN_WORDS = tuple(_UNKNOWN_WORDS.split())
# Words that eSpeak NG has in every language.
NUMBERS = tuple(str(n) for n in [*range(21), *range(30, 101, 10)])
SENTENCES = (
    "the weather will be fine again tomorrow afternoon",
    "she bought three loaves of bread and some cheese",
    "please remember to close the window before you leave",
    "the train to the city was late again this morning",
    "my brother plays the piano almost every evening",
    "we could meet at the corner of the market square",
    "there is hardly any milk left in the fridge",
    "he told me a long story about his old car",
)
NOISE_SECONDS = 30
CORPUS_VERSION = 4
# Of a clip's loudest second, in dB of full scale: people's recordings reach from -44 to
# -10 (kws train adds `gain_db` either way).
LOUDNESS_DB = (-36.0, -10.0)
# Share of a clip's samples at most. Three clips in ten have some at full scale; of
# people's recordings, one in thirty.
CLIPPED = 0.01
NOISE_DB = (5.0, 50.0)  # how much louder than the noise a word is
NO_NOISE = 0.3  # share of clips without any, as programs that take it away leave them
NO_ROOM = 0.3  # share of clips without the sound of a room: said into the microphone
# Words a minute at most, of 120 at least. People who call a device are in a hurry; a
# test stream is spoken as an announcer would.
HURRIED, CALM = 260, 200
MAX_CLIPS_PER_WORD = 20000
MOST_PROCESSES = 8  # with Kokoro's network each takes half a gigabyte of memory
FEW = 100  # up to this many clips of such engines aren't worth starting processes

Job = tuple[str, Voice, int]  # word, voice, take


@dataclass(frozen=True)
class Plan:
    """What a corpus is made of; equal plans give equal corpora.

    Args:
        words: The keywords.
        clips_per_word: Clips of each, over all splits; at least 10.
        unknown: Clips of other words, altogether.
        seed: Of everything that is drawn.
        voices: Names of the engines that take turns, `espeak` among them.
        language: A code that eSpeak NG knows (`de`, `pt-br`, `cmn`); others know `en`.
        clip_seconds: Length of a clip, 1 to 3 s.
    """

    words: tuple[str, ...]
    clips_per_word: int = 300
    unknown: int = 600
    seed: int = 1
    voices: tuple[str, ...] = (BASE,)
    language: str = ENGLISH
    clip_seconds: float = 1.0

    @property
    def clip_samples(self) -> int:
        """Samples of a clip."""
        return round(self.clip_seconds * SAMPLE_RATE)


def make(
    plan: Plan,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    folders: Mapping[str, Path] | None = None,
) -> int:
    """Write a corpus in the Speech Commands layout, whole or not at all.

    Nothing is done where `out` already holds the corpus of an equal plan, made with the
    same files.

    Args:
        plan: What to make.
        out: A folder that is absent, empty, or holds this very corpus.
        progress: Called with (clips done, clips of all).
        folders: Files of the user's for an engine, by its name.

    Returns:
        Clips written; 0 where the corpus was there.

    Raises:
        KwsError: unusable words, voices or language, too few clips, a folder in use, an
            engine that is missing, or a word that the language's voice spells or can't
            say.
    """
    plan = replace(plan, words=check_words(plan.words))
    _check_voices(plan)
    if not 10 <= plan.clips_per_word <= MAX_CLIPS_PER_WORD or plan.unknown < 0:
        raise KwsError(
            f"Expected 10 to {MAX_CLIPS_PER_WORD} clips per word, and unknown clips of "
            f"at least 0. Received: {plan.clips_per_word} and {plan.unknown}",
            'kws data synth --words "yes,no" --clips-per-word 300 --out corpus',
        )
    out = Path(out)
    folders = folders or {}
    files = _files(plan, folders)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        if _same_corpus(out, plan, files, folders):
            return 0
        raise KwsError(
            "The folder to write to is in use. Expected a new or empty folder, or a "
            "corpus of the same words, numbers of clips, seed, voices and files for "
            "them (--kokoro-dir). "
            f"Received: {str(out)!r}",
            f"kws data synth ... --out {quoted(f'{out}-new')}",
        )
    _, others = _language(plan.words, plan.language)
    if plan.unknown and not others:
        audio.say(
            f"eSpeak NG has no other words in {plan.language}: the corpus will have no "
            "unknown ones. Add recordings of some (--also)."
        )
    cast = {name: voices.get(name).start(folders.get(name)) for name in plan.voices}
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        jobs = list(_jobs(plan, cast, others))
        count = _make(plan, cast, jobs, building, folders, files, progress)
        building.chmod(0o755)
        if out.is_dir():
            out.rmdir()  # empty
        building.replace(out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return count


def _check_voices(plan: Plan) -> None:
    engines = {name: voices.get(name) for name in plan.voices}
    if BASE not in engines or len(engines) < len(plan.voices):
        raise KwsError(
            f"A corpus needs {BASE}, whose voices validate and test, and each engine "
            f"once. Received: {','.join(plan.voices)}",
            f"kws data synth --voices {','.join(dict.fromkeys([BASE, *engines]))} ...",
        )
    foreign = [word for word in plan.words if not word.isascii()]
    for engine in engines.values():
        if plan.language != ENGLISH and engine.ENGLISH_ONLY:
            raise KwsError(
                f"{engine.TITLE} speaks English alone. Expected --language {ENGLISH} "
                f"with it. Received: {plan.language}",
                f"kws data synth --language {plan.language} --voices {BASE} ...",
            )
        if foreign and engine.ASCII_ONLY:
            # It leaves other letters out without a word: its clips would be wrong.
            raise KwsError(
                f"{engine.TITLE} can't say these words. Expected letters from a to z, "
                f"or digits. Received: {', '.join(foreign)}",
                f"Spell them as they sound in English, or: --voices {BASE}",
            )


def can_say(words: tuple[str, ...], language: str = ENGLISH) -> bool:
    """Whether eSpeak NG is here and says the words as people do, not letter by letter.

    Example:
        >>> can_say(("hey robot",)), can_say(("tv",))
        (True, False)
    """
    try:
        linguist = espeak.start()
        voice = espeak.accents(linguist, language)[0]
        return not any(espeak.cannot_say(linguist, word, voice) for word in words)
    except (KwsError, OSError):
        return False


def spoken_stream(
    words: list[str],
    seed: int = 1,
    split: str = "test",
    snr_db: float = 25.0,
    gap_s: tuple[float, float] = (1.0, 2.0),
    speaker: Speaker | None = None,
    language: str = ENGLISH,
) -> tuple[np.ndarray, list[Window]]:
    """Words spoken one after another by changing voices, over steady pink noise.

    Args:
        words: In the order they are spoken.
        seed: Of voices, gaps and noise.
        split: Whose voices speak; `test` are voices that no training clip has.
        snr_db: Loudness of the words over the noise, in dB.
        gap_s: Shortest and longest pause before each word, in seconds.
        speaker: Who speaks; None opens eSpeak NG anew, which makes the result a
            function of the other arguments.
        language: As in a Plan.

    Returns:
        int16 [n] at 16 kHz, and where each word is.

    Example:
        >>> pcm, windows = spoken_stream(["yes", "no"])
        >>> windows[0].word
        'yes'
    """
    said_once = check_words(sorted({names.composed(word) for word in words}))
    accents, _ = _language(said_once, language)
    speaker = speaker or espeak.start()
    rng = np.random.Generator(np.random.PCG64([seed, 3]))
    here = [voice for voice in espeak.of_accents(accents) if voice.split == split]
    order = rng.permutation(len(here))
    pieces: list[np.ndarray] = []
    windows = []
    position = 0
    for number, word in enumerate(map(names.composed, words)):
        gap = int(rng.uniform(*gap_s) * SAMPLE_RATE)
        voice = here[order[number % len(here)]]
        said = _utterance(speaker, word, voice, rng, fastest=CALM) * np.float32(0.1)
        pieces += [np.zeros(gap, dtype=np.float32), said]
        start = position + gap
        position = start + len(said)
        windows.append(Window(word, start / SAMPLE_RATE, position / SAMPLE_RATE))
    pieces.append(np.zeros(int(1.5 * SAMPLE_RATE), dtype=np.float32))
    signal = np.concatenate(pieces)
    noise = _pink(rng, len(signal)) * np.float32(0.1 * 10 ** (-snr_db / 20))
    return _int16(signal + noise), windows


def write_stream(
    path: Path,
    words: list[str],
    seed: int = 1,
    split: str = "test",
    language: str = ENGLISH,
    again: str = "",
) -> list[Window]:
    """`spoken_stream` to a .wav, its truth windows to a .tsv beside it.

    Args:
        path: The .wav.
        words, seed, split, language: See `spoken_stream`.
        again: What to type instead where another recording or truth is there; empty:
            they are written over.

    Raises:
        KwsError: as `spoken_stream`; or something else is there.
    """
    pcm, windows = spoken_stream(words, seed, split, language=language)
    write_all({path: wav_bytes(pcm), path.with_suffix(".tsv"): truth(windows)}, again)
    return windows


def _language(
    words: tuple[str, ...], language: str
) -> tuple[tuple[str, ...], list[str]]:
    """The accents of a language, and other words to say in it.

    Raises:
        KwsError: no such language, or a word that its voice spells or can't say.
    """
    # Asked of an instance of its own: what one says depends on what it did before.
    linguist = espeak.start()
    accents = espeak.accents(linguist, language)
    voice = accents[0]

    def alike(one: str, other: str) -> bool:
        return espeak.same_sound(linguist, one, other, voice)

    try:
        wrong = {word: espeak.cannot_say(linguist, word, voice) for word in words}
        wrong = {word: why for word, why in wrong.items() if why}
        if wrong:
            said = ", ".join(f"{word} ({why})" for word, why in wrong.items())
            raise KwsError(
                f"The voice {voice} can't say these words as people do. Expected words "
                f"in the letters of its language. Received: {said}",
                "The language's code, as in --language cmn   (or spell them as they "
                'sound: "tee vee")',
            )
        others = [
            text
            for text in _others(words, language, lambda w: linguist.ipa(w, voice))
            if not _holds(text, words, alike)
            and (language == ENGLISH or not espeak.cannot_say(linguist, text, voice))
        ]
    except OSError:
        # It can't tell; when it is to speak, it says why.
        others = unknown_words(words, language)
    return accents, others


def _others(
    words: Sequence[str], language: str, ipa: Callable[[str], str]
) -> list[str]:
    """What is said beside the keywords, of each kind in turn: words, words that sound
    like a keyword, phrases."""
    kinds = [unknown_words(tuple(words), language)]
    if language == ENGLISH:
        kinds.append(near.alike(words, ipa))
        kinds.append(near.phrases(words) + near.pieces(SENTENCES))
    mixed = itertools.chain.from_iterable(itertools.zip_longest(*kinds))
    return list(dict.fromkeys(text for text in mixed if text is not None))


def _holds(text: str, words: Sequence[str], alike: Callable[[str, str], bool]) -> bool:
    """Whether a keyword is heard in a text. `alike`: whether two texts sound so."""
    parts = text.split(" ")
    for word in words:
        length = word.count(" ") + 1
        for place in range(len(parts) - length + 1):
            run = " ".join(parts[place : place + length])
            if names.key(run) == names.key(word) or alike(run, word):
                return True
    return False


def _mistakable(
    speaker: voices.Accented, text: str, words: Sequence[str], voice: Voice
) -> bool:
    """Whether an accent makes another word a keyword, as that accent or none has it:
    German *bad* is *bed*."""

    def alike(one: str, other: str) -> bool:
        said = speaker.sounds(one, voice.name)
        return any(
            near.distance(said, speaker.sounds(other, name)) == 0
            for name in (voice.name, voice.plain.name)
        )

    return _holds(text, words, alike)


def _utterance(
    speaker: Speaker,
    text: str,
    voice: Voice,
    rng: np.random.Generator,
    cut: bool = False,
    size: int = SAMPLE_RATE,
    fastest: int = HURRIED,
) -> np.ndarray:
    """One word, trimmed, at most 0.95 of a clip of `size`, root mean square 1: float32.

    A longer one is said faster; or, with `cut`, a part of it is taken.
    """
    pitch = int(rng.integers(25, 76))
    rate = int(rng.integers(120, fastest + 1))
    shortest, longest = SAMPLE_RATE // 20, int(0.95 * size)
    for _ in range(4):
        said = _trim(_say(speaker, text, voice, pitch, rate))
        if cut and len(said) > longest:
            at = int(rng.integers(0, len(said) - longest + 1))
            said = said[at : at + longest]
        if len(said) > longest and rate < 440:
            rate = min(450, int(rate * len(said) / longest * 1.1))
        elif len(said) < shortest:  # a small word, in a hurry
            rate = int(rate * 0.7)
        else:
            break
    if len(said) > longest:
        raise KwsError(
            "The word is too long: expected something that can be said within "
            f"{size / SAMPLE_RATE:g} s. Received: {text!r}",
            "Make longer clips, here and in training: --clip-seconds 1.5; or choose "
            "a shorter word.",
        )
    power = float(np.sqrt(np.mean(said**2))) if len(said) else 0.0
    if len(said) < shortest or power < 1e-4:
        raise KwsError(
            f"The word comes out silent: expected something that the voice can say. "
            f"Received: {text!r} by {voice.name}",
            'Spell it as it sounds, for example --words "hey robot".',
        )
    return said / np.float32(power)


def _say(
    speaker: Speaker, text: str, voice: Voice, pitch: int, rate: int
) -> np.ndarray:
    """`Speaker.say`; a synthesizer's failure is a KwsError."""
    try:
        return speaker.say(text, voice.name, pitch, rate)
    except OSError as error:
        raise KwsError(
            f"Voice {voice.name} can't speak. Expected audio for {text!r}. "
            f"Received: {error}",
            voices.get(voice.engine).MEND,
        ) from None


def _trim(samples: np.ndarray) -> np.ndarray:
    """Cut what is below 2 % of the peak at both ends."""
    if not len(samples):
        return samples
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def _clip(
    said: np.ndarray, noises: list[np.ndarray], rng: np.random.Generator, size: int
) -> np.ndarray:
    """Place an utterance in a clip, in a room, with noise, before a microphone:
    int16 [size]."""
    clip = np.zeros(size, dtype=np.float32)
    start = int(rng.integers(0, size - len(said) + 1))
    clip[start : start + len(said)] = said
    heard = rooms.heard(clip, rng)[:size]
    if rng.random() < NO_ROOM:
        heard = clip.copy()
    # Loudness over the noise is that of what arrives, near or far.
    heard *= math.sqrt(float(np.mean(clip**2) / np.mean(heard**2)))
    noise = noises[int(rng.integers(len(noises)))]
    at = int(rng.integers(0, len(noise) - size + 1))
    ratio = 10 ** (-rng.uniform(*NOISE_DB) / 20)
    if rng.random() < NO_NOISE:
        ratio = 0.0
    mixed = heard + noise[at : at + size] * ratio
    taken = np.fft.rfft(mixed) * rooms.microphone(rng, size)
    out = np.fft.irfft(taken, size)
    level = 10 ** (rng.uniform(*LOUDNESS_DB) / 20) / audio.loudest_second(out)
    return _int16(out * min(level, 1 / float(np.quantile(np.abs(out), 1 - CLIPPED))))


def _make(
    plan: Plan,
    cast: dict[str, Speaker],
    jobs: list[Job],
    out: Path,
    folders: Mapping[str, Path],
    files: Mapping[str, str],
    progress: Callable[[int, int], None] | None,
) -> int:
    noises = _noise_recordings(cast[BASE], plan.seed)
    (out / "_background_noise_").mkdir()
    for name, samples in noises.items():
        pcm = _int16(samples * 0.1)
        (out / "_background_noise_" / f"{name}.wav").write_bytes(wav_bytes(pcm))
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    clips = _clips(_Studio(plan, cast, noises), jobs, folders)
    for done, (job, pcm) in enumerate(zip(jobs, clips, strict=True)):
        word, voice, take = job
        name = _name(word, voice, take)
        file = out / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(wav_bytes(pcm))
        lists[voice.split].append(name)
        if progress is not None:
            progress(done + 1, len(jobs))
    for split, file_name in (("val", "validation"), ("test", "testing")):
        text = "".join(f"{name}\n" for name in sorted(lists[split]))
        (out / f"{file_name}_list.txt").write_text(text, encoding="utf-8")
    versions = {name: speaker.version for name, speaker in cast.items()}
    record = asdict(plan) | {"version": CORPUS_VERSION, "synthesizers": versions}
    record |= {"files": dict(files)} if files else {}
    (out / "corpus.json").write_text(json.dumps(record, indent=1) + "\n")
    return len(jobs)


def _name(word: str, voice: Voice, take: int) -> str:
    """A clip's file, within the corpus."""
    return f"{folder_of(word)}/{voice.id}_nohash_{take}.wav"


class _Studio:
    """What makes clips: engines that are ready to speak, and noises."""

    def __init__(
        self,
        plan: Plan,
        cast: Mapping[str, Speaker],
        noises: Mapping[str, np.ndarray],
    ) -> None:
        self.plan, self.cast, self.noises = plan, cast, noises
        self.parts = {
            split: [n[int(a * len(n)) : int(b * len(n))] for n in noises.values()]
            for split, (a, b) in NOISE_SHARE.items()
        }

    def clip(self, job: Job) -> np.ndarray:
        """int16 [clip_samples]."""
        word, voice, take = job
        rng = _rng(self.plan.seed, _name(word, voice, take))
        part, size = word not in self.plan.words, self.plan.clip_samples
        speaker = self.cast[voice.engine]
        if (
            part
            and voice != voice.plain
            and isinstance(speaker, voices.Accented)
            and _mistakable(speaker, word, self.plan.words, voice)
        ):
            voice = voice.plain
        said = _utterance(speaker, word, voice, rng, part, size)
        return _clip(said, self.parts[voice.split], rng, size)


def _clips(
    studio: _Studio, jobs: Sequence[Job], folders: Mapping[str, Path]
) -> Iterator[np.ndarray]:
    """Each job's clip, in order; those of engines that take long, in processes."""
    slow = {name for name in studio.plan.voices if voices.get(name).IN_PROCESSES}
    fast = [name for name in studio.plan.voices if name not in slow]
    elsewhere = [job for job in jobs if job[1].engine in slow]
    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    if processes < 2 or len(elsewhere) <= FEW:
        yield from map(studio.clip, jobs)
        return
    # spawn, not fork: TensorFlow's threads don't survive a fork.
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        _start_worker,
        (studio.plan, {name: folders.get(name) for name in slow}, studio.noises),
    )

    def asked(job: Job) -> Future[np.ndarray]:
        try:
            return pool.submit(_work, job)
        except OSError as error:  # its pipe was closed just now
            raise BrokenProcessPool(str(error)) from None

    try:
        waiting = iter(elsewhere)
        # A few ahead of what is taken, so that memory does not fill with clips.
        ahead = collections.deque(
            asked(job) for job in itertools.islice(waiting, 4 * processes)
        )
        for job in jobs:
            if job[1].engine not in slow:
                yield studio.clip(job)
                continue
            made = ahead.popleft().result()
            ahead.extend(map(asked, itertools.islice(waiting, 1)))
            yield made
    except BrokenProcessPool:
        raise KwsError(
            "A process that speaks was killed, probably for lack of memory: "
            f"{processes} of them have the networks of {', '.join(sorted(slow))}.",
            f"kws data synth --voices {','.join(fast)} ...",
            exit_code=1,
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_studio: _Studio | None = None


def _start_worker(
    plan: Plan, folders: Mapping[str, Path | None], noises: Mapping[str, np.ndarray]
) -> None:
    global _studio
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    cast = {name: voices.get(name).start(folder) for name, folder in folders.items()}
    _studio = _Studio(plan, cast, noises)


def _work(job: Job) -> np.ndarray:
    assert _studio is not None
    return _studio.clip(job)


def _jobs(
    plan: Plan, speakers: Mapping[str, Speaker], others: list[str]
) -> Iterator[Job]:
    """Voice by voice."""
    cast = _cast(plan, speakers)
    for place, voice in enumerate(cast):
        for word in plan.words:
            for take in range(_share(plan.clips_per_word, place, len(cast))):
                yield word, voice, take
        takes: dict[str, int] = {}
        before = sum(_share(plan.unknown, p, len(cast)) for p in range(place))
        for k in range(_share(plan.unknown, place, len(cast)) if others else 0):
            word = others[(before + k) % len(others)]
            yield word, voice, takes.setdefault(word, 0)
            takes[word] += 1


def _share(total: int, place: int, places: int) -> int:
    return total // places + (place < total % places)


def unknown_words(words: tuple[str, ...], language: str = ENGLISH) -> list[str]:
    """Words spoken as `_unknown_`: the built-in list, in other languages the numbers,
    and the parts of keywords of several words (`hey` and `robot` alone are not
    `hey robot`)."""
    keywords = {word.casefold() for word in words}
    parts = [part for word in words for part in word.split(" ")]
    others = UNKNOWN_WORDS if language == ENGLISH else NUMBERS
    chosen = dict.fromkeys([*parts, *others])
    return [word for word in chosen if word.casefold() not in keywords]


def _cast(plan: Plan, speakers: Mapping[str, Speaker]) -> list[Voice]:
    """Voices of a corpus: eight in ten from train, one from val, one from test; the
    engines take turns, where they have voices of a split."""
    waiting = {
        split: [
            voices.get(engine).voices(
                speaker, split, plan.language, _rng(plan.seed, f"{engine} {split}")
            )
            for engine, speaker in speakers.items()
        ]
        for split in dict.fromkeys(espeak.SPLIT_CYCLE)
    }

    def called(split: str) -> Voice | None:
        while engines := waiting[split]:
            engine = engines.pop(0)
            if (voice := next(engine, None)) is not None:
                engines.append(engine)
                return voice
        return None

    # Two clips of a word by each voice, where there are voices enough; whole cycles,
    # so that the shares of the splits hold.
    cast: list[Voice] = []
    for _ in range(max(plan.clips_per_word // 20, 1)):
        cycle = [called(split) for split in espeak.SPLIT_CYCLE]
        if cast and None in cycle:
            break
        cast += [voice for voice in cycle if voice is not None]
    return cast


def _rng(seed: int, what: str) -> np.random.Generator:
    """A generator for each thing that is drawn."""
    number = int(hashlib.sha256(what.encode()).hexdigest()[:8], 16)
    return np.random.Generator(np.random.PCG64([seed, number]))


def _noise_recordings(speaker: Speaker, seed: int) -> dict[str, np.ndarray]:
    """Synthesised background noises, float32 [30 s], root mean square 1."""
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    size = NOISE_SECONDS * SAMPLE_RATE
    time = np.arange(size) / SAMPLE_RATE
    hum = np.zeros(size)
    for harmonic in range(1, 20):
        phase = rng.uniform(0, 2 * np.pi)
        hum += np.sin(2 * np.pi * 50 * harmonic * time + phase) / harmonic
    fan = _coloured(rng, size, 2.0) * (1 + 0.3 * np.sin(2 * np.pi * 7.3 * time))
    taps = np.zeros(size)
    for _ in range(NOISE_SECONDS * 4):
        at = int(rng.integers(0, size - 800))
        ring = np.exp(-np.arange(800) / rng.uniform(30, 200))
        taps[at : at + 800] += ring * rng.standard_normal(800) * rng.uniform(0.2, 1)
    babble = np.zeros(size)
    train = [voice for voice in espeak.of_accents() if voice.split == "train"]
    for k in range(24):
        sentence = SENTENCES[k % len(SENTENCES)]
        voice = train[int(rng.integers(len(train)))]
        said = _say(speaker, sentence, voice, 50, int(rng.integers(130, 200)))
        said = said / max(1e-3, float(np.sqrt(np.mean(said**2))))
        repeated = np.resize(np.append(said, np.zeros(4000)), size)
        babble += np.roll(repeated, int(rng.integers(size)))
    found = {
        "white": rng.standard_normal(size),
        "pink": _coloured(rng, size, 1.0),
        "hum": hum + 0.05 * rng.standard_normal(size),
        "fan": fan,
        "taps": taps + 0.01 * rng.standard_normal(size),
        "babble": babble,
    }
    return {name: _unit(samples) for name, samples in found.items()}


def _pink(rng: np.random.Generator, size: int) -> np.ndarray:
    return _unit(_coloured(rng, size, 1.0))


def _coloured(rng: np.random.Generator, size: int, slope: float) -> np.ndarray:
    """Noise whose power falls with frequency**slope, above 20 Hz."""
    padded = 1 << (size - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(padded))
    frequency = np.fft.rfftfreq(padded, 1 / SAMPLE_RATE)
    spectrum *= (np.maximum(frequency, 20) / 20) ** (-slope / 2) * (frequency > 20)
    return np.fft.irfft(spectrum, padded)[:size]


def _unit(samples: np.ndarray) -> np.ndarray:
    return (samples / np.sqrt(np.mean(samples**2))).astype(np.float32)


def _int16(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def _files(plan: Plan, folders: Mapping[str, Path]) -> dict[str, str]:
    """What tells the files of engines from others, where they may be the user's.

    Raises:
        KwsError: a folder of the user's that can't be used.
    """
    found = {}
    for name in plan.voices:
        engine, folder = voices.get(name), folders.get(name)
        if not hasattr(engine, "digest"):
            continue
        if (error := engine.missing(folder)) is None:
            found[name] = engine.digest(folder)
        elif folder is not None:
            raise error
    return found


def _same_corpus(
    out: Path, plan: Plan, files: Mapping[str, str], folders: Mapping[str, Path]
) -> bool:
    try:
        record = json.loads((out / "corpus.json").read_text(encoding="utf-8"))
        record.setdefault("clip_seconds", 1.0)
        made_with = record.get("files", {})
        for name, digest in files.items():
            # Older corpora don't tell: made with what is installed, if no folder is
            # named.
            told = made_with.get(name) or ("" if name in folders else digest)
            if told != digest:
                return False
        return record.get("version") == CORPUS_VERSION and all(
            record.get(key) == (list(value) if isinstance(value, tuple) else value)
            for key, value in asdict(plan).items()
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
