"""What reads files and lines from strangers, on mutants of what the project writes.

A reader may take an input or refuse it with KwsError, whose message and hint are there.
Anything else, more than CPU_S seconds of processor time or MEGABYTES of memory for one
input is a crash. Hypothesis makes the mutants, and the smallest one that still crashes.

    python readers.py uf2 elf --seconds 10 --seed 1      prints counts as JSON
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
import types
import zipfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np  # noqa: E402
import small_corpus  # noqa: E402
import small_elf  # noqa: E402
import soundfile  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from kws import bundle as bundles  # noqa: E402
from kws import recipe as recipes  # noqa: E402
from kws.attention import slots  # noqa: E402
from kws.data import ambient, archives, audio, download, splits, tape  # noqa: E402
from kws.deploy import boards, elf, frame, monitor, serve, uf2  # noqa: E402
from kws.emit import common, native  # noqa: E402
from kws.errors import KwsError  # noqa: E402
from kws.features.tables import c_source  # noqa: E402
from kws.graph import passes, reader, stream  # noqa: E402
from kws.model import check, import_kwt  # noqa: E402
from kws.thresholds import Thresholds  # noqa: E402

SEEDS = Path(__file__).parent / "seeds"
CPU_S = 10
MEGABYTES = 1024  # more than before the first input
MAX_BYTES = 1 << 20  # of a mutant


@dataclass(frozen=True)
class Reader:
    """One of them.

    Args:
        name: For the command line.
        about: What is read, in a few words.
        seeds: Makes inputs that it takes.
        read: Reads one: its bytes, and an empty folder to put them into.
    """

    name: str
    about: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]


# --- mutants --------------------------------------------------------------------------

_NUMBERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF]
_NUMBERS += [0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]
_TOKENS = [b"-1", b"0", b"1e999", b"-0.0", b"nan", b"inf", b"9" * 400, b"1" + b"0" * 20]
_TOKENS += [
    b"9" * 5000,
    b"256",
    b"65536",
    b"4294967296",
    b"true",
    b"null",
    b"''",
    b"{}",
]
_TOKENS += [
    b'""',
    b"[]",
    b"[[",
    b"[" * 20000,
    b"{" * 20000,
    b"..",
    b"/",
    b"../x",
    b"\0",
]
_TOKENS += [b"\t", b"\n", b'"', b"\\", b";", b",", b"=", b"\xff\xfe", b"\xe2\x80\xae"]
_TOKENS += [
    "\u0663".encode(),
    "\u00b2".encode(),
    b"x" * 140_000,
    b"1979-05-27",
    b"\x1b[2J",
]
_TOKENS += [b"0x10", b"1_000", b"kind=beat", b"schema", b"%s", b"\r", b"\x85", b"#"]


_TOKEN = re.compile(rb"[\w.+-]+|[^\w\s]")


@st.composite
def mutants(draw: st.DrawFn, inputs: list[bytes]) -> bytes:
    """One of the inputs with up to five edits: bits, numbers, tokens, parts of it."""
    data = bytearray(draw(st.sampled_from(inputs)))
    for _ in range(draw(st.integers(0, 5))):
        if not data:
            break
        edit = draw(st.integers(0, 8))
        at = draw(st.integers(0, len(data) - 1))
        if edit == 0:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif edit == 1:
            data[at] = draw(st.integers(0, 255))
        elif edit == 2:  # a number, where numbers of a format lie
            size = draw(st.sampled_from([1, 2, 4, 8]))
            number = draw(st.sampled_from(_NUMBERS)) % (1 << 8 * size)
            at -= at % min(size, 4)
            order = draw(st.sampled_from(["little", "big"]))
            data[at : at + size] = number.to_bytes(size, order)
        elif edit in (3, 4):
            token = _TOKEN.search(data, at)
            if token is not None:
                data[token.start() : token.end()] = draw(st.sampled_from(_TOKENS))
        elif edit == 5:
            data[at:at] = draw(st.sampled_from(_TOKENS) | st.binary(max_size=8))
        elif edit == 6:
            del data[at : at + draw(st.integers(1, 64))]
        elif edit == 7:
            del data[at:]
        else:  # a part of this, or of another one, elsewhere
            other = draw(st.sampled_from([bytes(data), *inputs])) or b"0"
            start = draw(st.integers(0, len(other) - 1))
            data[at:at] = other[start : start + draw(st.integers(1, 256))]
    return bytes(data[:MAX_BYTES])


# --- readers --------------------------------------------------------------------------


def _put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _files(name: str) -> Callable[[], list[bytes]]:
    return lambda: [p.read_bytes() for p in sorted((SEEDS / name).iterdir())]


def _tflite(data: bytes, folder: Path) -> None:
    native.network_source(reader.read(data), "portable")
    graph = reader.read(data)
    passes.prepare(graph)
    stream.derive(graph)


def _imported(data: bytes, folder: Path) -> None:
    import_kwt.read_operators(data, "theirs.tflite")


@cache
def _bundle_files() -> dict[str, bytes]:
    source = bundles.load("kwt-tiny").path
    names = ("recipe.toml", "bundle.json", "metrics.json", "model.tflite")
    own = {name: (source / name).read_bytes() for name in names}
    table = json.loads(own["bundle.json"]) | {"files": {}}  # their hashes bar the way
    return own | {"bundle.json": json.dumps(table).encode()}


def _bundle(data: bytes, folder: Path) -> None:
    """bundle.json, metrics.json or recipe.toml, by the first byte."""
    own = dict(_bundle_files())
    name = ("bundle.json", "metrics.json", "recipe.toml")[data[0] % 3 if data else 0]
    own[name] = data[1:]
    for file, content in own.items():
        _put(folder, file, content)
    bundle = bundles.load(folder)
    native.sources(bundle, "portable")
    bundles.save(bundle)


def _bundle_seeds() -> list[bytes]:
    own = _bundle_files()
    names = ("bundle.json", "metrics.json", "recipe.toml")
    return [bytes([place]) + own[name] for place, name in enumerate(names)]


def _recipe(data: bytes, folder: Path) -> None:
    recipe = recipes.load(_put(folder, "mine.toml", data))
    check.check(recipe)
    c_source(recipe.features, "features")
    recipes.to_toml(recipe)


def _recipe_seeds() -> list[bytes]:
    presets = [path.read_bytes() for path in sorted(recipes.RECIPES.glob("*.toml"))]
    return [*presets, recipes.to_toml(recipes.Recipe()).encode()]


def _thresholds(data: bytes, folder: Path) -> None:
    known = slots(recipes.load("kwt-stream-tiny").model)
    Thresholds.read(f"@{_put(folder, 'picked.json', data)}", known)


def _thresholds_seeds() -> list[bytes]:
    return [b'{"C": 4, "0.M": 16}']


def _page(data: bytes, folder: Path) -> None:
    for name, content in _bundle_files().items():
        _put(folder, name, content)
    server = object.__new__(serve.Server)  # without its port
    server.run, server.saving = folder, threading.Lock()
    server.save(data)


def _page_seeds() -> list[bytes]:
    bundle = bundles.load("kwt-tiny")
    levels = [0.8] * len(bundle.labels[common.first_word(bundle.labels) :])
    table = {"hash": bundle.hash[:16], "word_thresholds": levels}
    return [json.dumps(table).encode()]


def _tone() -> np.ndarray:
    return small_corpus.tone(440, 2000)


def _wav(**how: Any) -> bytes:
    out = io.BytesIO()
    real = _tone() / 32768
    if how.pop("stereo", False):
        real = np.stack([real, real], axis=1)
    soundfile.write(out, real, how.pop("rate", 16000), **how)
    return out.getvalue()


def _audio_seeds() -> list[bytes]:
    return [
        audio.wav_bytes(_tone()),
        _wav(format="WAV", subtype="FLOAT", rate=44100, stereo=True),
        _wav(format="WAV", subtype="ULAW", rate=8000),
        _wav(format="WAV", subtype="PCM_24"),
        _wav(format="WAVEX", subtype="PCM_U8"),
        _wav(format="FLAC", subtype="PCM_16"),
        _wav(format="OGG", subtype="VORBIS"),
        _wav(format="OGG", subtype="OPUS", rate=48000),
        _wav(format="MP3", subtype="MPEG_LAYER_III"),
        _wav(format="AIFF", subtype="PCM_16"),
        _wav(format="AU", subtype="ALAW"),
        _wav(format="CAF", subtype="PCM_16"),
        _wav(format="W64", subtype="PCM_16"),
        _wav(format="RF64", subtype="PCM_16"),
    ]


def _audio(data: bytes, folder: Path) -> None:
    path = _put(folder, "sound.wav", data)
    audio.seconds(path)
    audio.read(path, max_seconds=60)


def _index(data: bytes, folder: Path) -> None:
    _put(folder, "yes.wav", audio.wav_bytes(_tone()))
    _put(folder, "_unknown_.wav", audio.wav_bytes(_tone()))
    _put(folder, "index.tsv", data)
    archives.read_clips(archives.read_index(folder)[:64], 16000, threads=1)


def _ambient(data: bytes, folder: Path) -> None:
    _put(folder, "noise.wav", audio.wav_bytes(_tone()))
    _put(folder, "index.tsv", data)
    for split in splits.SPLITS:
        ambient.recordings(folder, split, ("yes",))


def _lists(data: bytes, folder: Path) -> None:
    _put(folder, "validation_list.txt", data)
    _put(folder, "testing_list.txt", b"no/b_nohash_0.wav\n")
    names = ["yes/a_nohash_0.wav", "no/b_nohash_0.wav", "no/c_nohash_1.wav"]
    found = splits.read_lists(folder, names)
    assert found is not None
    found.notes()
    found.check(folder)


def _truth(data: bytes, folder: Path) -> None:
    """A table or JSON, by the first byte."""
    suffix = (".tsv", ".json")[data[0] % 2 if data else 0]
    windows = tape.read_windows(_put(folder, f"truth{suffix}", data[1:]))
    tape.asked_for(windows, ("_silence_", "_unknown_", "yes", "no"))


def _truth_seeds() -> list[bytes]:
    tables = [
        b"start_s\tend_s\tword\n0.5000\t1.2000\tyes\n2.0\t2.5\tno\n",
        b"word;begin [ms];end [ms]\nyes;500;1200\nno;2000;2500\n",
        b'"start","end","label"\n"0.5","1.2","yes"\n',
        b"0,5\t1,2\tyes\n0:02.0\t0:02.5\tno\n",
    ]
    said = [{"word": "yes", "start_s": 0.5, "end_s": 1.2}]
    texts = [json.dumps(said), json.dumps({"windows": said})]
    return [b"\0" + t for t in tables] + [b"\1" + t.encode() for t in texts]


def _tape(data: bytes, folder: Path) -> None:
    path = _put(folder, "tape.wav", audio.wav_bytes(_tone()))
    _put(folder, "tape.tsv", b"0.01\t0.05\tyes\n")
    _put(folder, "tape.tape.json", data)
    tape.open_tape(path)


def _tape_seeds() -> list[bytes]:
    table = {
        "kind": "made",
        "made": {"seed": 1},
        "windows": [[12.5, "yes/a.wav"]],
        "said": [[0.01, 0.05, "yes", "yes/a.wav"]],
    }
    return [json.dumps(table).encode()]


def _tar(data: bytes, folder: Path) -> None:
    out = folder / "out"
    try:
        download.unpack(_put(folder, "clips.tar.gz", data), out)
    except KwsError:
        assert not out.exists()
        raise
    inside = [path.resolve() for path in out.rglob("*")]
    assert all(path.is_relative_to(out.resolve()) for path in inside)


def _tar_seeds() -> list[bytes]:
    found = []
    # Stored without compression: what is mutated is then the archive.
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=form) as tar:
            for name in ("corpus/yes/a.wav", "corpus/" + "x" * 120 + "/\u00e9.wav"):
                member = tarfile.TarInfo(name)
                member.size = 4
                tar.addfile(member, io.BytesIO(b"RIFF"))
        out = io.BytesIO()
        import gzip

        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=0, mtime=0) as packed:
            packed.write(plain.getvalue()[:6144])
        found += [out.getvalue(), plain.getvalue()[:6144]]
    return found


def _tar_either(data: bytes, folder: Path) -> None:
    """A .tar.gz, or a tar that is packed here."""
    import gzip

    packed = data if data[:2] == b"\x1f\x8b" else gzip.compress(data, 0, mtime=0)
    _tar(packed, folder)


def _zip_seeds() -> list[bytes]:
    found = []
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as packed:
            for name in ("corpus/yes/a.wav", "corpus/\u00e9.wav"):
                packed.writestr(zipfile.ZipInfo(name), b"RIFF" * 9, how)
        found.append(out.getvalue())
    return found


def _monitor(data: bytes, folder: Path) -> None:
    monitor.parse(data.decode("utf-8", "replace"))
    following = monitor.Monitor(lambda cost: cost / 64000, "4b5d041965650208")
    step = 1 + (data[0] if data else 0)
    for at in range(0, len(data), step):
        try:
            messages = following.feed(data[at : at + step])
        except KwsError as error:
            _said(error)
            continue
        for message in messages:
            assert monitor.text(message).isprintable()
            json.dumps(message, allow_nan=False)


def _monitor_seeds() -> list[bytes]:
    lines = [
        "kws boot name=kwt hash=4b5d041965650208 schema=1 app=main labels=12 arena=9 "
        "weights=8 version=0.1.0 board=pico clock_hz=125000000 build=0badcafe "
        "reset=power",
        "kws selftest ok",
        'kws event word="hey robot" start_ms=0 time_ms=1000 score=0.930',
        "kws beat hash=4b5d041965650208 schema=1 time_ms=2000 peak=99 overruns=0 "
        "inferences=3 frame_cost=9 cost=9 macs=5 macs_dense=9 stack=10 stack_size=99 "
        "mic=quiet",
        "kws state hash=4b5d041965650208 schema=1 verbosity=1 gain=10",
        "kws threshold label=2 word=yes value=0.800",
        "kws decision word=yes score=0.100",
        "kws reply to=5 status=ok",
        "kws stats samples=1 overruns=0 frames=1 inferences=1 events=0",
        "kws fault exception=3 pc=00000102 lr=00000103 cfsr=02000000 hfsr=0 mmfar=0 "
        "bfar=0 build=0badcafe",
        "kws error reason=stack",
        "kws end",
    ]
    plain = "\n".join(lines) + "\n"
    framed = "\n".join(frame.framed(line, i) for i, line in enumerate(lines)) + "\n"
    return [plain.encode(), framed.encode(), *(f"{s}\n".encode() for s in lines)]


def _frame(data: bytes, folder: Path) -> None:
    """A line, and the same as the board would frame it: taken off, it is as it was."""
    text = data.decode("utf-8", "replace")
    frames = frame.Frames()
    frames.take(text)
    line = text.replace("\n", " ")
    body, missing = frame.Frames().take(frame.framed(line, len(data)))
    assert body == line and missing == 0


def _uf2(data: bytes, folder: Path) -> None:
    found = uf2.decode(data)
    segments = tuple(elf.Segment(address, page) for address, page in found.pages)
    uf2.encode(segments, found.family)


def _uf2_seeds() -> list[bytes]:
    return [uf2.encode((elf.Segment(0x10000000, bytes(range(256)) * 2),))]


def _elf(data: bytes, folder: Path) -> None:
    path = _put(folder, "image.elf", data)
    image = elf.read(path)
    for section in image.sections:
        image.before(section.address)
    image.content(0x10000, 64)
    elf.seal(path, image)
    uf2.encode(image.segments)


def _elf_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = small_elf.write(Path(folder) / "image", bytes(range(64)), b"model")
        return [path.read_bytes(), *_files("elf")()]


def _board(data: bytes, folder: Path) -> None:
    real = boards.BOARDS
    (folder / "mine").mkdir()
    (folder / "common").symlink_to(real / "common")
    _put(folder / "mine", "board.toml", data)
    boards.BOARDS = folder
    try:
        boards.load("mine")
    finally:
        boards.BOARDS = real


def _board_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(boards.BOARDS.glob("*/board.toml"))]


def _index_seeds() -> list[bytes]:
    return [
        b"yes\tyes/a_nohash_0.wav\t0\t900\nyes\tyes/b_nohash_0.wav\t900\t1000\n"
        b"_unknown_\tcat/a_nohash_0.wav\t0\t2000\n"
    ]


def _ambient_seeds() -> list[bytes]:
    return [
        b"file\tfirst_sample\tsamples\tsplit\tkind\tspeaker\tname\ttext\n"
        b"noise.wav\t0\t1000\ttrain\tnoise\t\train\t\n"
        b"noise.wav\t500\t1000\tval\tnoise\t\twind\tno yes\n"
        b"noise.wav\t1000\t1000\tval\tspeech\tanna\tx\tsay\n"
        b"noise.wav\t0\t2000\ttest\tmusic\t\tsong\t\n",
        b"split\tkind\tsamples\tfirst_sample\ttext\tfile\n"
        b"test\tnoise\t1000\t0\t\tnoise.wav\n"
        b"val\tnoise\t1000\t0\t\tnoise.wav\n"
        b"train\tnoise\t1000\t0\t\tnoise.wav\n",
    ]


def _lists_seeds() -> list[bytes]:
    return [b"yes/a_nohash_0.wav\n", b'"yes\\A_nohash_0.flac"\n./no/c_nohash_1.wav\n']


READERS = {
    one.name: one
    for one in (
        Reader("tflite", ".tflite to emitted C", _files("tflite"), _tflite),
        Reader("import-kwt", "a foreign .tflite", _files("tflite"), _imported),
        Reader("bundle", "a bundle's files, to C", _bundle_seeds, _bundle),
        Reader("recipe", "recipes", _recipe_seeds, _recipe),
        Reader("thresholds", "files of thresholds", _thresholds_seeds, _thresholds),
        Reader("page", "what a page sends to `kws live`", _page_seeds, _page),
        Reader("audio", "14 formats of audio", _audio_seeds, _audio),
        Reader("index", "an index of packed clips", _index_seeds, _index),
        Reader("ambient", "an index of ambient sound", _ambient_seeds, _ambient),
        Reader("lists", "validation_list.txt", _lists_seeds, _lists),
        Reader("truth", "the truth of a tape, 6 ways", _truth_seeds, _truth),
        Reader("tape", "what else is known of a tape", _tape_seeds, _tape),
        Reader("archive", "a corpus as .tar.gz", _tar_seeds, _tar_either),
        Reader("zip", "ambient sound as .zip", _zip_seeds, _tar),
        Reader("monitor", "a board's lines", _monitor_seeds, _monitor),
        Reader("frame", "the frames of lines", _monitor_seeds, _frame),
        Reader("uf2", "UF2 files", _uf2_seeds, _uf2),
        Reader("elf", "ELF images, sealed, to UF2", _elf_seeds, _elf),
        Reader("board", "board.toml", _board_seeds, _board),
    )
}


# --- running --------------------------------------------------------------------------


class TooLong(Exception):
    """A reader took too much processor time."""


def _alarm(*_: object) -> None:
    raise TooLong(f"more than {CPU_S} s of processor time")


def _said(error: KwsError) -> None:
    assert error.message and error.hint


def once(one: Reader, data: bytes) -> None:
    """Read one input. Raises what is a crash."""
    with tempfile.TemporaryDirectory() as folder:
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S)
        try:
            one.read(data, Path(folder))
        except KwsError as error:
            _said(error)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def run(one: Reader, examples: int, number: int) -> int:
    """Read mutants. Returns how many.

    Args:
        one: The reader.
        examples: How many mutants.
        number: Seeds them.

    Raises:
        Exception: what the reader raised; its notes name the smallest such input.
    """
    count = 0
    quiet = list(HealthCheck)

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=quiet,
        phases=(Phase.generate, Phase.shrink),
    )
    @given(mutants(one.seeds()))
    def each(data: bytes) -> None:
        nonlocal count
        count += 1
        once(one, data)

    with redirect_stderr(io.StringIO()):
        each()
    return count


def lines(one: Reader, examples: int = 20) -> tuple[int, int]:
    """Lines of the package that mutants reach; all lines of the functions entered."""
    package = str(Path(bundles.__file__).parent)
    reached: set[tuple[str, int]] = set()
    entered: set[types.CodeType] = set()

    def at_line(frame: types.FrameType, event: str, _: object) -> Any:
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return at_line

    def at_call(frame: types.FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(package):
            return None
        entered.add(frame.f_code)
        return at_line(frame, event, _)

    def traced(data: bytes, folder: Path) -> None:
        sys.settrace(at_call)
        try:
            one.read(data, folder)
        finally:
            sys.settrace(None)

    run(Reader(one.name, one.about, one.seeds, traced), examples, 1)
    known = {
        (code.co_filename, line)
        for code in entered
        for _, _, line in code.co_lines()
        if line is not None and line != code.co_firstlineno
    }
    return len(reached & known), len(known)


def limited() -> None:
    """From here on this process has so much memory, and a cache of its own."""
    used = int(Path("/proc/self/statm").read_text().split()[0])
    most = used * resource.getpagesize() + MEGABYTES * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGVTALRM, _alarm)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+", choices=READERS)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", action="store_true", help="count lines, do no more")
    given = parser.parse_args(arguments)
    cache_folder = tempfile.mkdtemp(prefix="kws-fuzz-")
    os.environ["KWS_CACHE"] = cache_folder
    limited()
    try:
        for name in given.names:
            if given.lines:
                reached, known = lines(READERS[name])
                print(json.dumps({"name": name, "reached": reached, "lines": known}))
                continue
            start, done, number = time.monotonic(), 0, given.seed
            while done == 0 or time.monotonic() - start < given.seconds:
                done += run(READERS[name], given.examples, number)
                number += 1
            took = time.monotonic() - start
            told = {"name": name, "executions": done, "seconds": took}
            print(json.dumps(told), flush=True)
    finally:
        shutil.rmtree(cache_folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
