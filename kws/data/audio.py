"""The one reader of audio: what people have becomes int16, 16 kHz, mono.

WAV (8 to 64 bits, float, mu-law, A-law), FLAC, Ogg Vorbis, Opus, MP3, AIFF and more by
libsndfile; M4A, AAC, WebM and WMA by the `ffmpeg` command where it is installed.
Samples of 16 kHz, mono, 16 bits are taken as they are; all else is scaled, mixed down
and resampled (soxr), and what was done is told.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from kws.errors import KwsError, quoted

SAMPLE_RATE = 16000
MAX_SECONDS = 4 * 3600.0
SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc"),
    *(".au", ".snd", ".caf", ".w64", ".rf64"),
)
FFMPEG_SUFFIXES = (
    *(".m4a", ".mp4", ".aac", ".webm", ".mka", ".mkv", ".wma", ".amr", ".3gp"),
    ".mov",
)
_ALL_SUFFIXES = frozenset(SUFFIXES + FFMPEG_SUFFIXES)
RATES = (1000, 768_000)  # Hz: what lies outside is a broken header
MAX_CHANNELS = 64
# What a person hears of a clip is its loudest part: a word fills a third of its second.
LOUDEST_S = 0.2
BLOCK = 1 << 18  # frames decoded at a time
MAX_HELD_BYTES = 1 << 28  # of a file that is read as a whole, then decoded
MAX_HEADER_BYTES = 1 << 12  # of one that is read as a whole for its length
FFMPEG_S = 1800  # two days of sound take it some minutes
# Float samples beyond full scale are cut where they are few and small (an overshoot of
# a resampler); else the file is in other units, or was written too loud.
OVERSHOOT, OVERSHOOT_SHARE = 2.0, 0.001
CANCELLED = 0.01  # a mix with less than this share of its loudest channel's power

# Where a container's mark is, and ffmpeg's name for it: naming it keeps ffmpeg from
# taking a text for a list of other files.
_CONTAINERS = (
    (4, b"ftyp", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (0, b"\x30\x26\xb2\x75", "asf"),
    (0, b"#!AMR", "amr"),
    (0, b"\xff\xf1", "aac"),
    (0, b"\xff\xf9", "aac"),
)
_KINDS = {
    "PCM_S8": "8-bit",
    "PCM_U8": "8-bit",
    "PCM_16": "16-bit",
    "PCM_24": "24-bit",
    "PCM_32": "32-bit",
    "FLOAT": "float",
    "DOUBLE": "64-bit float",
    "ULAW": "mu-law",
    "ALAW": "A-law",
    "VORBIS": "Vorbis",
    "OPUS": "Opus",
    "MPEG_LAYER_III": "MP3",
}
# Samples of other subtypes fit into 16 bits, or are lossy: libsndfile's own int16.
_WIDE = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "PCM_24": "int32",
    "PCM_32": "int32",
}


class NotUsable(KwsError):
    """A recording that can't be used.

    Args:
        fault: A key of `kws.data.verify.KINDS`.
        problem: What is wrong with the file, and what was expected.
        path: The file.
        hint: What to type.
    """

    def __init__(self, fault: str, problem: str, path: Path, hint: str) -> None:
        super().__init__(
            f"Not a usable recording: {problem}. Received: {str(path)!r}", hint
        )
        self.fault, self.problem, self.path = fault, problem, path

    def __reduce__(self) -> tuple[Any, ...]:
        return NotUsable, (self.fault, self.problem, self.path, self.hint)


@dataclass(frozen=True)
class Sound:
    """A recording, decoded.

    Args:
        pcm: int16 [samples] at 16 kHz.
        source: What it was (`44,100 Hz stereo float`); empty where nothing was
            converted.
    """

    pcm: np.ndarray
    source: str = ""


def is_audio(path: Path) -> bool:
    """Whether a file's name is that of a recording, in any case (`x.WAV`).

    Names that begin with a dot are not (macOS puts `._x.wav` beside `x.wav`).

    Example:
        >>> [is_audio(Path(name)) for name in ("x.WAV", "x.m4a", "x.txt", "._x.wav")]
        [True, True, False, False]
    """
    return _is_audio_name(path.name)


def contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """The recordings of a folder, and what else is in it, each in order of name."""
    with os.scandir(folder) as entries:  # no look at each of 100,000 files
        there = sorted((entry.name, entry.is_file()) for entry in entries)
    clips = [name for name, is_file in there if is_file and _is_audio_name(name)]
    taken = set(clips)
    others = [name for name, _ in there if name not in taken]
    return [folder / name for name in clips], [folder / name for name in others]


def _is_audio_name(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    return suffix in _ALL_SUFFIXES and not name.startswith(".")


def samples(path: Path, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """`read`, and a line on stderr about what was converted."""
    sound = read(path, max_seconds)
    if sound.source:
        say(f"{path.name}: converted {sound.source} to 16 kHz mono")
    return sound.pcm


def read(path: Path, max_seconds: float = MAX_SECONDS, convert: bool = True) -> Sound:
    """Decode a recording to int16 [samples], 16 kHz, mono.

    Args:
        path: A file of any format named above.
        max_seconds: The longest that is taken.
        convert: Mix down and resample; without it another rate or more channels are
            refused (training clips: `kws data import` converts them once).

    Returns:
        The samples. Channels are averaged; full scale of any format is 32768.

    Raises:
        NotUsable: no such file, not audio, empty, cut off, too long, samples that are
            no numbers or beyond full scale, channels that cancel each other.

    Example:
        >>> read(Path("yes.mp3")).source  # doctest: +SKIP
        '44,100 Hz stereo MP3'
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            problem, demuxer = _look(file, size)
    except (FileNotFoundError, IsADirectoryError):
        raise NotUsable(
            "not_audio",
            "there is no such file",
            path,
            'kws data synth --words "yes,no" --stream stream.wav   (speaks one)',
        ) from None
    if size == 0:
        raise _not_usable("empty", "it is empty (0 bytes)", path)
    if problem:
        raise _not_usable("truncated", problem, path)
    if demuxer is None:
        return _read(path, path, max_seconds, convert)
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "decoded.wav"
        _ffmpeg(path, demuxer, wav, max_seconds)
        return _read(wav, path, max_seconds, convert)


def seconds(path: Path) -> float:
    """How long a recording says it is; 0 where that can't be told. Of most formats no
    more than the header is read."""
    try:
        with _open(path, path, MAX_HEADER_BYTES) as audio:
            return audio.frames / audio.samplerate
    except KwsError:
        return 0.0


def wav_bytes(pcm: np.ndarray) -> bytes:
    """int16 samples as a 16 kHz mono WAV file."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, pcm, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return out.getvalue()


def loudest_second(pcm: np.ndarray) -> float:
    """Root mean square of the loudest second, or of all where that is shorter.

    Args:
        pcm: [samples], at 16 kHz, at least one.

    Example:
        >>> loudest_second(np.array([0.0] * 8000 + [0.5] * 16000))
        0.5
    """
    power = np.cumsum(np.square(np.append(0, pcm), dtype=np.float64))
    size = min(SAMPLE_RATE, len(pcm))
    return float(np.sqrt((power[size:] - power[:-size]).max() / size))


def loudness(pcm: np.ndarray) -> np.ndarray:
    """Of each clip's loudest part, in dB of full scale (a root mean square).

    Args:
        pcm: int16 [N, samples] at 16 kHz.

    Example:
        >>> loudness(np.full((1, 16000), 16384, np.int16)).round(1).tolist()
        [-6.0]
    """
    size = int(LOUDEST_S * SAMPLE_RATE)
    part = max(1, size // 4)
    count = pcm.shape[1] // part
    power = np.square(pcm[:, : count * part].astype(np.float32) / 32768)
    blocks = power.reshape(len(pcm), count, part).mean(axis=2, dtype=np.float64)
    sums = np.cumsum(np.pad(blocks, ((0, 0), (1, 0))), axis=1)
    width = min(size // part, count)
    loudest = ((sums[:, width:] - sums[:, :-width]) / width).max(axis=1)
    return 10 * np.log10(np.maximum(loudest, 1e-10))


@functools.cache
def say(text: str) -> None:
    """A line on stderr; the same line is not said twice."""
    print(text, file=sys.stderr, flush=True)


def _not_usable(fault: str, problem: str, path: Path) -> NotUsable:
    if fault in ("wrong_rate", "stereo"):
        folder = path.parent.parent  # a corpus: it holds folders of words
        hint = (
            f"kws data import {quoted(folder)} --out {quoted(f'{folder}-16k')}   "
            "(converts it)"
        )
    elif fault in ("empty", "too_long", "not_finite"):
        hint = "Record or export it again, or leave it out."
    else:
        hint = f"ffmpeg -i {quoted(path)} -ac 1 -ar 16000 -sample_fmt s16 mended.wav"
    return NotUsable(fault, problem, path, hint)


class _Watched(io.FileIO):
    """A file that keeps what a read failed of: libsndfile takes such a read for zeros,
    in a header too, and goes on."""

    error: OSError | None = None

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            self.error = error
            return 0


@contextlib.contextmanager
def _open(file: Path, path: Path, most: int) -> Iterator[Any]:
    """A soundfile.SoundFile of `file`, decoded or copied from `path`; one of `most`
    bytes at most is read as a whole.

    Raises:
        NotUsable: it is not audio; or, at the end, a read of it failed.
    """
    source = None
    try:
        source = _source(file, path, most)
        with _decoder(source, path) as audio:
            yield audio
    finally:
        if isinstance(source, _Watched):
            source.close()
            if source.error is not None:
                raise _unread(source.error, path) from None


def _decoder(source: Any, path: Path) -> Any:
    """A soundfile.SoundFile of what `_source` gives."""
    import soundfile

    try:
        audio = soundfile.SoundFile(source)
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError) as error:
        reason = str(error).rsplit(": ", 1)[-1].rstrip(".")
        if isinstance(error, TypeError):  # .raw: no header says what it is
            reason = "samples without a header"
        raise _not_usable(
            "not_audio", f"it can't be read as audio ({reason})", path
        ) from None
    if audio.format == "RAW":  # guessed from the name alone
        audio.close()
        raise _not_usable(
            "not_audio", "it can't be read as audio (samples without a header)", path
        )
    return audio


def _source(file: Path, path: Path, most: int) -> Any:
    """What soundfile opens: Python reads, whose errors are told (see `_Watched`)."""
    try:
        if file.suffix.lower() == ".raw":  # which is refused by its name
            # Bytes: a name that is no text opens too. Windows takes text alone.
            return str(file) if os.name == "nt" else os.fsencode(file)
        if file.stat().st_size <= most:
            return io.BytesIO(file.read_bytes())
        return _Watched(file)
    except OSError as error:
        raise _unread(error, path) from None


def _unread(error: OSError, path: Path) -> NotUsable:
    reason = error.strerror or str(error)
    return _not_usable("not_audio", f"it can't be read as audio ({reason})", path)


def _read(file: Path, path: Path, max_seconds: float, convert: bool) -> Sound:
    import soundfile

    with _open(file, path, MAX_HELD_BYTES) as audio:
        rate, channels = audio.samplerate, audio.channels
        _check_header(audio, path, max_seconds, convert)
        plain = rate == SAMPLE_RATE and channels == 1
        wide = _WIDE.get(audio.subtype, "int16" if plain else "float32")
        meter = _Meter(channels)
        parts: list[np.ndarray] = []
        limit = int(max_seconds * rate) + rate  # a header may promise too little
        try:
            for mixed in _mixed(audio, wide, meter, limit, path):
                parts.append(mixed)
        except (soundfile.SoundFileError, OSError, RuntimeError) as error:
            raise _not_usable("truncated", f"it breaks off ({error})", path) from None
        # An MP3's length is an estimate where its index is missing.
        lossy = audio.subtype in ("MPEG_LAYER_III", "VORBIS", "OPUS")
        promised = audio.frames * (0.9 if lossy else 1)
        if meter.frames < promised:
            raise _not_usable(
                "truncated",
                f"it ends after {meter.frames} of {audio.frames} samples",
                path,
            )
        subtype = audio.subtype
    pcm = np.concatenate(parts) if parts else np.zeros(0, np.int16)
    meter.check(path, pcm)
    if not len(pcm):
        raise _not_usable("empty", "it holds no samples", path)
    source = ""
    if not plain or subtype in _WIDE:
        kind = _KINDS.get(subtype, subtype)
        if file != path:
            kind = path.suffix.lower().lstrip(".") or "ffmpeg"
        width = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
        source = f"{rate:,} Hz {width} {kind}"
        if meter.over:
            source += f" ({meter.over} samples cut at full scale)"
    return Sound(pcm, source)


def _check_header(audio: Any, path: Path, max_seconds: float, convert: bool) -> None:
    rate, channels = audio.samplerate, audio.channels
    if not RATES[0] <= rate <= RATES[1] or not 1 <= channels <= MAX_CHANNELS:
        raise _not_usable(
            "not_audio",
            f"its header says {rate} Hz and {channels} channels; expected "
            f"{RATES[0]} to {RATES[1]} Hz, 1 to {MAX_CHANNELS} channels",
            path,
        )
    if audio.frames == 0:
        raise _not_usable("empty", "it holds no samples", path)
    if audio.frames > max_seconds * rate:
        raise _not_usable(
            "too_long",
            f"expected at most {_length(max_seconds)}, received "
            f"{_length(audio.frames / rate)}",
            path,
        )
    if not convert and rate != SAMPLE_RATE:
        raise _not_usable(
            "wrong_rate", f"expected {SAMPLE_RATE} Hz, received {rate} Hz", path
        )
    if not convert and channels != 1:
        raise _not_usable("stereo", f"expected one channel, received {channels}", path)


class _Meter:
    """What went by while a file was decoded, and whether it can be believed."""

    def __init__(self, channels: int) -> None:
        self.frames = 0
        self.peak = 0.0  # of full scale
        self.over = 0  # samples beyond it
        self.finite = True
        self.power = np.zeros(channels)
        self.mix_power = 0.0

    def see(self, block: np.ndarray, mixed: np.ndarray) -> None:
        """One decoded block, -1..1 as float [frames, channels], and its mix."""
        self.frames += len(block)
        if not np.isfinite(block).all():
            self.finite = False
            return
        loud = np.abs(block)
        self.peak = max(self.peak, float(loud.max(initial=0)))
        self.over += int((loud > 1).sum())
        self.power += np.square(block, dtype=np.float64).sum(axis=0)
        self.mix_power += float(np.square(mixed, dtype=np.float64).sum())

    def check(self, path: Path, pcm: np.ndarray) -> None:
        if not self.finite:
            raise _not_usable(
                "not_finite", "it holds samples that are no numbers (NaN, inf)", path
            )
        count = self.frames * len(self.power)
        if self.peak > OVERSHOOT or self.over > max(16, OVERSHOOT_SHARE * count):
            raise NotUsable(
                "scale",
                f"expected samples within -1..1, received {self.over} of {count} "
                f"outside, up to {self.peak:.4g}",
                path,
                "Divide the samples by their full scale (32768 for 16 bits) before "
                "they are saved as float, or save them as 16 bits.",
            )
        if 0.0 < self.peak < 2**-15 and len(pcm) and not pcm.any():
            raise NotUsable(
                "scale",
                f"its loudest sample is {self.peak:.2g} of full scale, less than one "
                "step of 16 bits: it was scaled down twice, or 16-bit samples were "
                "saved as 32-bit ones",
                path,
                "Save the samples as 16 bits, or as float within -1..1.",
            )
        if len(self.power) > 1 and self.mix_power < CANCELLED * self.power.max():
            raise NotUsable(
                "cancelled",
                f"its {len(self.power)} channels cancel each other when they are mixed "
                "(one is the other upside down)",
                path,
                f"ffmpeg -i {quoted(path)} -af 'pan=mono|c0=c0' left.wav   "
                "(takes one channel)",
            )


def _mixed(
    audio: Any, dtype: str, meter: _Meter, limit: int, path: Path
) -> Iterator[np.ndarray]:
    """The file as blocks of int16 [samples], 16 kHz, mono."""
    rate = audio.samplerate
    resampler: Any = None
    if rate != SAMPLE_RATE:
        import soxr

        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    going = True
    while going:
        block = audio.read(BLOCK, dtype=dtype, always_2d=True)
        going = len(block) == BLOCK
        if meter.frames + len(block) > limit:
            raise _not_usable(
                "truncated", "it goes on after the end that its header says", path
            )
        if dtype == "int16":  # 16 kHz mono: nothing to do
            meter.frames += len(block)
            yield block[:, 0].copy()
            continue
        real = block / 2.0**31 if dtype == "int32" else block
        mono = real.mean(axis=1, dtype=np.float64)
        meter.see(real, mono)
        if not meter.finite:
            return
        if resampler is not None:
            mono = resampler.resample_chunk(mono.astype(np.float32))
        yield _int16(mono)
    if resampler is not None:
        yield _int16(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _int16(real: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(real * 32768.0), -32768, 32767).astype(np.int16)


def _length(duration_s: float) -> str:
    if duration_s >= 3600:
        return f"{duration_s / 3600:.3g} h"
    return f"{duration_s:.3g} s"


def _look(file: BinaryIO, size: int) -> tuple[str, str | None]:
    """What is wrong with the length that a WAV, AIFF or AU file says, else ''; and
    ffmpeg's name for a container that only ffmpeg reads, else None."""
    head = file.read(16)
    for place, mark, name in _CONTAINERS:
        if head[place : place + len(mark)] == mark:
            return "", name
    if head[:4] == b".snd":
        start = int.from_bytes(head[4:8], "big")
        return _shortage(int.from_bytes(head[8:12], "big"), size - start, 0), None
    order: Literal["little", "big"] = "little"
    mark, extra = b"data", 0
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        order, mark, extra = "big", b"SSND", 8
    elif head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
        return "", None
    file.seek(12)
    for _ in range(1000):
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        length = int.from_bytes(chunk[4:8], order)
        if chunk[:4] == mark:
            return _shortage(length, size - file.tell(), extra), None
        file.seek(length + length % 2, 1)
    return "", None


def _shortage(length: int, there: int, extra: int) -> str:
    # A program that writes into a pipe can't know the length and says the largest.
    if length >= 0x7FFFF000:
        return ""
    if length > there:
        return f"{length - there} bytes are missing at its end"
    if length <= extra and there >= extra + 64:
        return (
            f"its header says that it holds no samples, but {there - extra} bytes "
            "follow (the recording was not ended properly)"
        )
    return ""


def _ffmpeg(path: Path, demuxer: str, out: Path, max_seconds: float) -> None:
    """Decode the first audio of a container to 16-bit WAV."""
    command = shutil.which("ffmpeg")
    if command is None:
        raise NotUsable(
            "not_audio",
            f"this format ({demuxer}) needs the command ffmpeg, which is not installed",
            path,
            "apt-get install ffmpeg",
        )
    arguments = [command, "-nostdin", "-v", "error", "-protocol_whitelist", "file"]
    arguments += ["-f", demuxer, "-i", f"file:{path}", "-map", "0:a:0"]
    arguments += ["-t", str(max_seconds + 1), "-c:a", "pcm_s16le", str(out)]
    try:
        run = subprocess.run(
            arguments, capture_output=True, check=False, timeout=FFMPEG_S
        )
    except subprocess.TimeoutExpired:
        raise _not_usable(
            "not_audio", f"ffmpeg did not end in {FFMPEG_S} s", path
        ) from None
    if run.returncode != 0 or not out.is_file():
        reason = run.stderr.decode(errors="replace").strip().splitlines()
        raise _not_usable(
            "not_audio",
            f"ffmpeg can't read it ({(reason or ['no reason given'])[-1][:120]})",
            path,
        )
