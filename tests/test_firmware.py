"""The always-on loop: on this machine under sanitizers, and on emulated boards."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_models
import soundfile
from fake_model import LABELS, FakeModel, tone
from toolbox import SANITIZE, host_compile, need_compiler, need_qemu

from kws import bundle as bundles
from kws.deploy import boards, build, monitor, run
from kws.deploy.runners import qemu
from kws.errors import CheckFailed, KwsError
from kws.features import extract
from kws.paths import FIRMWARE
from kws.recipe import Features

FAKE = FakeModel()
MEMORY = FakeModel(memory=True)
# A frame every 20 ms: half as many frames in the same window.
HOP20 = FakeModel(
    features=Features(hop=320, frames=48),
    detector=dataclasses.replace(FAKE.detector, hop_frames=8),
)
RING = FAKE.ring_samples
# Five seconds: low, high, low.
STREAM = np.concatenate([tone(300, 24000), tone(5000, 32000), tone(300, 24000)])
CLIPS = np.stack([tone(hertz, 16000) for hertz in (300, 5000, 1500, 900, 3000)])
BAD_AUDIO = Path(__file__).parent / "bad_input" / "data"


# --- on this machine ----------------------------------------------------------------


def build_harness(model: FakeModel, folder: Path) -> Path:
    """tests/c/loop_harness.c around the loop and a fake model, sanitized."""
    model.write(folder)
    names = ("src/detector.c", "src/selftest.c", "src/features.c")
    names += ("app/listen.c", "app/command.c", "app/print.c", "host/silent_board.c")
    sources = [FIRMWARE / name for name in names]
    sources += [folder / "kws_model.c", Path(__file__).parent / "c" / "loop_harness.c"]
    (folder / "stream.raw").write_bytes(STREAM.tobytes())
    (folder / "clips.raw").write_bytes(CLIPS.tobytes())
    flags = (*SANITIZE, "-pthread", f"-I{FIRMWARE / 'app'}")
    return host_compile(sources, folder / "harness", *flags)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_harness(FAKE, tmp_path_factory.mktemp("loop"))


@pytest.fixture(scope="module")
def hop20_harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_harness(HOP20, tmp_path_factory.mktemp("hop20"))


@pytest.fixture(scope="module")
def memory_harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_harness(MEMORY, tmp_path_factory.mktemp("memory"))


def harness_says(harness: Path, file: str, mode: str, number: int) -> list[str]:
    result = subprocess.run(
        [str(harness), file, mode, str(number)],
        cwd=harness.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@cache
def expected_stream(fake: FakeModel = FAKE) -> tuple[tuple[str, ...], int, int]:
    """Lines that the harness must print for STREAM, from Python alone: decisions and
    events, frames, inferences. The detector is the plain reading of kws_detector.h."""
    from reference_detector import Model, Settings

    spec, detector = fake.features, fake.detector
    frames = extract(STREAM, spec)
    hop_ms = detector.hop_frames * spec.hop // 16
    settings = Settings(
        smoothing=detector.smoothing,
        refractory=-(-detector.refractory_ms // hop_ms),
        threshold=[detector.threshold] * 4,
        rearm=[detector.rearm] * 4,
    )
    model, lines = Model(settings), []
    decisions = fake.decisions(frames)
    for end, logits in decisions.items():
        lines.append(logits_line(logits))
        label, scores = model.step(logits)
        if label >= 0:
            time_ms = (spec.window + spec.hop * (end - 1)) // 16
            start_ms = max(0, time_ms - spec.clip_samples // 16)
            lines.append(f"event {label} {start_ms} {time_ms} {scores[label]}")
    return tuple(lines), len(frames), len(decisions)


def logits_line(logits: np.ndarray) -> str:
    return " ".join(map(str, ["logits", *logits.tolist()]))


def events_of(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if line.startswith("event")]


@pytest.mark.parametrize(
    ("model", "name"),
    [(FAKE, "harness"), (MEMORY, "memory_harness"), (HOP20, "hop20_harness")],
    ids=["window", "memory", "hop20"],
)
def test_the_stream_gives_what_python_computes_however_it_is_cut(
    model: FakeModel, name: str, request: pytest.FixtureRequest
) -> None:
    harness = request.getfixturevalue(name)
    expected, frames, runs = expected_stream(model)
    events = events_of(expected)
    words = [LABELS[int(line.split()[1])] for line in events]
    assert words == [LABELS[2], LABELS[3], LABELS[2]]
    for seed in range(6):
        lines = harness_says(harness, "stream.raw", "chunk", seed)
        stats = f"stats {len(STREAM)} 0 {frames} {runs} {len(events)}"
        assert lines == [*expected, stats]


def test_a_producer_thread_beside_the_polling_one_changes_nothing(
    harness: Path,
) -> None:
    expected, frames, runs = expected_stream()
    lines = harness_says(harness, "stream.raw", "thread", 1)
    assert lines[:-1] == list(expected)
    kept, _, *rest = map(int, lines[-1].split()[1:])
    assert [kept, *rest] == [len(STREAM), frames, runs, len(events_of(expected))]


def clips_say(harness: Path) -> list[str]:
    lines = harness_says(harness, "clips.raw", "clips", 16000)
    return [line for line in lines if line.split()[0] in ("clip", "logits")]


def expected_clips(model: FakeModel) -> list[str]:
    lines = []
    for clip in CLIPS:
        decisions = model.decisions(extract(clip, model.features))
        lines += ["clip", *map(logits_line, decisions.values())]
    return lines


def test_a_clip_is_a_stream_from_reset(harness: Path, memory_harness: Path) -> None:
    one_each = expected_clips(FAKE)
    assert len(one_each) == 2 * len(CLIPS)
    assert clips_say(harness) == one_each
    several = expected_clips(MEMORY)
    assert len(several) == 5 * len(CLIPS)
    assert clips_say(memory_harness) == several


def test_a_reset_that_clears_nothing_is_noticed(tmp_path: Path) -> None:
    """The clips above tell: what the memory holds of one clip matters to the next."""
    model = dataclasses.replace(MEMORY, keeps_after_reset=True)
    said, expected = clips_say(build_harness(model, tmp_path)), expected_clips(MEMORY)
    assert said[:5] == expected[:5]  # the first clip has nothing before it
    assert said[5:] != expected[5:]


def test_no_event_looks_back_behind_a_reset(memory_harness: Path) -> None:
    """The first decisions of a network for streams come before it has heard as much as
    it can look back on: all that it has heard began with the reset."""
    clip, starts = -1, []
    for line in harness_says(memory_harness, "clips.raw", "clips", 16000):
        clip += line == "clip"
        if line.startswith("event"):
            start_ms = int(line.split()[2])
            assert start_ms >= 1000 * clip
            starts.append(start_ms - 1000 * clip)
    assert starts and max(starts) < 500


# --- clocks and counters ------------------------------------------------------------

YEAR_S = 365 * 24 * 3600


@pytest.mark.parametrize(
    "before",
    [2**32 - 24000, 2**36 - 24000, 16000 * 10 * YEAR_S],
    ids=["74 hours", "50 days", "10 years"],
)
def test_no_clock_wraps(harness: Path, before: int) -> None:
    """1.5 s before 2^32 samples, and 2^32 ms; and after ten years."""
    text = "\n".join(harness_says(harness, "stream.raw", "listen", before))
    said = monitor.parse(text)
    assert said.ended and said.selftest
    expected = [line.split()[1:] for line in events_of(expected_stream()[0])]
    assert [
        [str(LABELS.index(event.word)), event.start_ms, event.time_ms]
        for event in said.events
    ] == [
        [label, int(start) + before // 16, int(end) + before // 16]
        for label, start, end, _ in expected
    ]
    times = [beat.time_ms - before // 16 for beat in said.beats]
    assert times == [10, 1010, 2010, 3010, 4010]
    assert said.stats["samples"] == before + len(STREAM)
    messages = monitor.Monitor(float).feed(text.encode())
    beats = [message for message in messages if message["kind"] == "beat"]
    assert [beat["time_s"] for beat in beats] == [
        (before // 16 + time) / 1000 for time in times
    ]


@pytest.mark.parametrize("lost", [2**32 - 1, 2**32 + 5, 10**11])
def test_lost_samples_are_counted_past_32_bits(harness: Path, lost: int) -> None:
    assert harness_says(harness, "stream.raw", "overrun", lost) == [
        f"stats 0 {lost} 0 0 0"
    ]


@pytest.mark.parametrize("chunk", [160, 1000, RING, RING + 1, 50000])
def test_what_does_not_fit_the_ring_is_dropped_and_counted(
    harness: Path, chunk: int
) -> None:
    lines = harness_says(harness, "stream.raw", "flood", chunk)
    kept, dropped = map(int, lines[-1].split()[1:3])
    assert (kept, dropped) == (RING, len(STREAM) - RING + 7)
    assert lines[-2] == f"kept {kept}"


def test_selftest_passes_and_a_wrong_expectation_fails(
    harness: Path, hop20_harness: Path, tmp_path: Path
) -> None:
    harness_says(harness, "-", "selftest", 0)
    harness_says(hop20_harness, "-", "selftest", 0)
    wrong = build_harness(dataclasses.replace(FAKE, expected_shift=1), tmp_path)
    result = subprocess.run([str(wrong), "-", "selftest", "0"], check=False)
    assert result.returncode == 2  # KWS_ERROR_SELFTEST


@pytest.mark.parametrize(
    "change",
    [{"hop_frames": 99}, {"rearm": 0.0}, {"threshold": 0.3}, {"smoothing": 17}],
)
def test_a_model_that_cannot_work_is_refused_at_its_start(
    change: dict[str, Any], tmp_path: Path
) -> None:
    detector = dataclasses.replace(FAKE.detector, **change)
    program = build_harness(dataclasses.replace(FAKE, detector=detector), tmp_path)
    command = [str(program), str(tmp_path / "stream.raw"), "chunk", "0"]
    assert subprocess.run(command, check=False).returncode == 3  # kws_init


# --- the microphone's test ----------------------------------------------------------

_RNG = np.random.default_rng(7)
SECONDS = 16000


def _noise(scale: float, mean: float = 0.0) -> np.ndarray:
    noise = mean + _RNG.normal(0, scale, SECONDS)
    return np.clip(np.rint(noise), -32768, 32767).astype(np.int16)


def _square(low: int, high: int, samples: int) -> np.ndarray:
    """Quiet noise, `samples` of which are `low` and `high` in turn."""
    out = _noise(300)
    out[:samples] = np.where(np.arange(samples) % 2, high, low)
    return out


# What is heard for a second -> what the beat says.
MICROPHONES = [
    ("ok", tone(700, SECONDS)),
    ("ok", _noise(15)),  # a quiet room, -67 dB
    ("zeros", np.zeros(SECONDS, np.int16)),
    ("stuck", np.full(SECONDS, -1, np.int16)),
    ("stuck", np.full(SECONDS, -32768, np.int16)),
    ("offset", _noise(2, 300)),
    ("quiet", _noise(2, 200)),
    ("offset", _noise(500, -9000)),
    ("ok", _noise(500, 6000)),
    ("clipping", _noise(20000)),
    ("ok", _square(-32768, 32767, 15)),
    ("clipping", _square(-32767, 32767, 17)),
    ("ok", _square(-32766, 32766, 16000)),
]


@pytest.mark.parametrize(("found", "pcm"), MICROPHONES)
def test_a_beat_says_what_is_wrong_with_the_microphone(
    found: str, pcm: np.ndarray, harness: Path
) -> None:
    pcm.tofile(harness.parent / "mic.raw")
    said = monitor.parse("\n".join(harness_says(harness, "mic.raw", "listen", 0)))
    assert [beat.microphone for beat in said.beats] == [found]


def test_the_emulated_board_judges_its_microphone_alike(tmp_path: Path) -> None:
    """Each sound for two seconds: every second beat has heard nothing else."""
    pcm = np.concatenate([np.tile(sound, 2) for _, sound in MICROPHONES])
    said = listen(FAKE, tmp_path, pcm=pcm).transcript
    judged = [(beat.microphone, beat.peak) for beat in said.beats]
    assert len(judged) >= 2 * len(MICROPHONES)
    assert judged[1::2] == [
        (found, int(np.abs(sound.astype(int)).max())) for found, sound in MICROPHONES
    ]
    words = monitor.Monitor(float).feed(
        b"kws beat hash=0 schema=1 time_ms=1 peak=1 overruns=0 inferences=0 "
        b"frame_cost=0 cost=0 macs=0 macs_dense=0 mic=clipping\n"
    )
    assert "lower the gain" in monitor.text(words[0])


# --- on the emulated board ----------------------------------------------------------


def build_fake(model: FakeModel, folder: Path, app: str = "main") -> build.Image:
    need_compiler()
    need_qemu()
    board = boards.load("qemu-m4")
    return build.build(model.write(folder / "model"), board, folder, app)


def listen(model: FakeModel, folder: Path, **options: object) -> run.Listened:
    image = build_fake(model, folder)
    options = {"pcm": STREAM, "expected_hash": FAKE.hash, **options}
    return run.listen(image.elf, boards.load("qemu-m4"), **options)  # type: ignore


@pytest.mark.parametrize(
    ("model", "pace"),
    [(FAKE, True), (FAKE, False), (HOP20, True)],
    ids=["paced", "waiting", "hop20"],
)
def test_the_board_hears_what_python_computes(
    tmp_path: Path, model: FakeModel, pace: bool
) -> None:
    listened = listen(model, tmp_path, pace=pace)
    assert listened.problems == ()
    expected, frames, runs = expected_stream(model)
    events = events_of(expected)
    said = [
        f"event {LABELS.index(event.word)} {event.start_ms} {event.time_ms}"
        for event in listened.transcript.events
    ]
    assert said == [line.rsplit(" ", 1)[0] for line in events]
    for event, line in zip(listened.transcript.events, events, strict=True):
        assert abs(event.score - int(line.split()[-1]) / 32767) <= 0.0006
    stats = listened.transcript.stats
    assert stats["samples"] == len(STREAM)
    assert (stats["frames"], stats["inferences"]) == (frames, runs)
    assert stats["overruns"] == 0
    # The paint tells a real depth: more than the features' spectrum, less than all.
    assert 2056 < stats["stack"] < stats["stack_size"]


def test_a_board_that_is_too_slow_beats_and_tells_its_growing_overruns(
    tmp_path: Path,
) -> None:
    """No word, no pause: a decision takes 0.7 s, and audio comes every 0.16 s."""
    deaf = dataclasses.replace(FAKE.detector, threshold=1.0)
    slow = dataclasses.replace(FAKE, spin=10_000_000, detector=deaf)
    listened = listen(slow, tmp_path, pcm=tone(1500, 8 * 16000, amplitude=0))
    assert listened.transcript.events == []
    beats = listened.transcript.beats
    times = [beat.time_ms for beat in beats]
    assert len(times) >= 5 and times[0] < 2500
    assert max(np.diff(times)) < 2500
    overruns = [beat.overruns for beat in beats]
    assert all(np.diff(overruns) > 5_000)
    assert overruns[-1] <= listened.transcript.stats["overruns"]


def test_too_slow_a_model_loses_samples_and_says_so(tmp_path: Path) -> None:
    # About 60 million instructions a run: 0.7 s at 86 M/s, and a hop is 0.16 s.
    slow = dataclasses.replace(FAKE, spin=10_000_000)
    listened = listen(slow, tmp_path)
    overruns = listened.transcript.stats["overruns"]
    assert overruns > 10_000
    assert listened.transcript.stats["samples"] + overruns == len(STREAM)
    assert len(listened.problems) == 1
    assert f"{overruns:,} of {len(STREAM):,} samples were lost" in listened.problems[0]
    # 60 million instructions at 0.83 million for each 10 ms frame.
    hop = run.least_hop(listened.transcript, boards.load("qemu-m4"), FAKE.features)
    assert hop is not None
    assert 72 <= hop <= 76
    often_enough = dataclasses.replace(FAKE.detector, hop_frames=hop)
    relaxed = listen(dataclasses.replace(slow, detector=often_enough), tmp_path)
    assert relaxed.problems == ()
    # The same model is no problem for one that waits.
    waits = listen(slow, tmp_path, pace=False)
    assert waits.problems == ()


def test_instruction_counts_are_exact(tmp_path: Path) -> None:
    counts = []
    for spin in (0, 1000, 2000, 1_000_000):
        model = dataclasses.replace(FAKE, spin=spin)
        image = build_fake(model, tmp_path / str(spin), "clips")
        result = run.clips(image.elf, boards.load("qemu-m4"), CLIPS, 4, jobs=1)
        counts.append(result.instructions_per_inference_max)
    per_turn = (counts[2] - counts[1]) / 1000
    assert per_turn == int(per_turn)
    assert counts[3] == counts[2] + 998_000 * per_turn


def test_the_counters_wrap_is_bridged(tmp_path: Path) -> None:
    # One run of about 900 million instructions: the 25 MHz counter wraps at 671.
    model = dataclasses.replace(FAKE, spin=150_000_000)
    image = build_fake(model, tmp_path, "clips")
    result = run.clips(image.elf, boards.load("qemu-m4"), CLIPS[:1], 4)
    short = dataclasses.replace(FAKE, spin=150_000)
    image = build_fake(short, tmp_path, "clips")
    expected = run.clips(image.elf, boards.load("qemu-m4"), CLIPS[:1], 4)
    ratio = result.instructions_per_inference / expected.instructions_per_inference
    assert result.instructions_per_inference > 2**32 * 40 // 256
    assert 900 < ratio < 1000


def test_a_crash_is_a_failed_run(tmp_path: Path) -> None:
    listened = listen(dataclasses.replace(FAKE, crash_at=5), tmp_path)
    assert len(listened.problems) == 1
    assert "the firmware crashed (exit code 20" in listened.problems[0]
    assert listened.transcript.fault is not None
    assert int(listened.transcript.fault["pc"], 16) > 0


def test_a_stack_overflow_faults(tmp_path: Path) -> None:
    listened = listen(dataclasses.replace(FAKE, recurse_at=3), tmp_path)
    assert "crashed" in listened.problems[0]
    assert listened.transcript.fault is not None
    assert listened.transcript.fault["stack"] == "overflow"


_BOOTLOADER = """
#include <stdint.h>
void kws_reset_handler(void);
/* At the first boot: as a bootloader that hands over with exceptions pending. */
static int bootloader(void) {
  volatile uint32_t *const systick_reload = (volatile uint32_t *)0xe000e014u;
  if (*systick_reload != 0) return 0; /* it survives the start-up */
  *systick_reload = 1;
  __asm volatile("cpsid i");
  *(volatile uint32_t *)0xe000ed04u = 1u << 28 | 1u << 26; /* PENDSVSET, PENDSTSET */
  kws_reset_handler();
  return 1;
}
"""


def test_what_a_bootloader_left_pending_is_forgotten(tmp_path: Path) -> None:
    need_compiler()
    need_qemu()
    text = FAKE.source().replace("= &detector,\n", "= &detector, .init = bootloader,\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "kws_model.c").write_text(_BOOTLOADER + text)
    board = boards.load("qemu-m4")
    image = build.build(tmp_path / "model", board, tmp_path)
    outcome = qemu.run(image.elf, board, {}, tmp_path, 20)
    assert outcome.text.count("kws boot") == 2, outcome.text
    assert "kws selftest ok" in outcome.text
    assert "fault" not in outcome.text


def test_a_failed_selftest_is_a_failed_run(tmp_path: Path) -> None:
    listened = listen(dataclasses.replace(FAKE, expected_shift=1), tmp_path)
    assert "self-test failed" in listened.problems[0]
    assert listened.transcript.selftest is False


def test_a_model_that_the_loop_cannot_hold_is_refused_at_boot(tmp_path: Path) -> None:
    detector = dataclasses.replace(FAKE.detector, hop_frames=99)
    listened = listen(dataclasses.replace(FAKE, detector=detector), tmp_path)
    assert "refused the generated model" in listened.problems[0]


def test_another_models_hash_is_told(tmp_path: Path) -> None:
    listened = listen(FAKE, tmp_path, expected_hash="f" * 16)
    assert listened.problems == (
        f"the board runs another model: expected hash {'f' * 16}, received {FAKE.hash}",
    )


def test_a_run_that_hangs_is_stopped(tmp_path: Path) -> None:
    hangs = dataclasses.replace(FAKE, spin=2**32 - 1)
    listened = listen(hangs, tmp_path, timeout_s=1.0)
    assert "did not end in time" in listened.problems[0]


def test_no_audio_file_is_an_input_error(tmp_path: Path) -> None:
    image = build_fake(FAKE, tmp_path)
    arguments = {"audio": "absent.raw", "pace": "0"}
    board = boards.load("qemu-m4")
    outcome = qemu.run(image.elf, board, arguments, tmp_path, 20)
    assert outcome.exit_code == 12
    assert monitor.parse(outcome.text).errors == ["audio"]


def test_clips_shorter_than_the_window_are_refused(tmp_path: Path) -> None:
    image = build_fake(FAKE, tmp_path, "clips")
    with pytest.raises(CheckFailed, match="shorter than the window"):
        run.clips(image.elf, boards.load("qemu-m4"), CLIPS[:, :8000], 4)


# --- the protocol -------------------------------------------------------------------


def test_protocol_survives_garbage() -> None:
    good = r'kws event word="a \"b\" \\" start_ms=1 time_ms=1001 score=0.93'
    bad = [
        "kws event word=yes start_ms=x time_ms=1 score=1",
        "kws event word=yes",
        'kws event word="yes start_ms=1',
        r'kws event word="yes\" start_ms=1 time_ms=1 score=1',
        "kws unknown a=1",
        "kws stats samples=many",
        "kws",
        "\x00\xff" * 50,
        "kws boot name=" + "a" * 5000,
        "kws clips count=-",
    ]
    transcript = monitor.parse("\n".join([*bad, good, *bad]))
    assert transcript.events == [monitor.Event('a "b" \\', 1, 1001, 0.93)]
    assert transcript.boot == {}
    assert transcript.clips is None
    assert len(transcript.other) == 2 * len(bad)


# --- the command line ---------------------------------------------------------------


def kws(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real command; `path` replaces PATH."""
    import os

    environment = dict(os.environ)
    if path is not None:
        environment["PATH"] = path
    code = "from kws.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted run: a small untrained network that hears whatever it hears."""
    spec = sample_models.recipe(layers=1, dim=16, head_dim=16, mlp_dim=16)
    folder = tmp_path_factory.mktemp("bundle")
    return sample_models.bundle(folder, spec, sample_models.network(spec)).path


def test_flash_from_bundle_to_verdict(bundle: Path, tmp_path: Path) -> None:
    need_compiler()
    need_qemu()
    stream = tmp_path / "stream.wav"
    soundfile.write(stream, STREAM, 16000)
    command = ["flash", str(bundle), "--board", "qemu-m4", "--audio", str(stream)]
    result = kws(*command, "--json", "--out", str(tmp_path / "build"))
    assert result.returncode == 0, result.stderr
    table = json.loads(result.stdout)
    assert table["board"] == "qemu-m4"
    assert table["built"]
    assert table["fits"]
    assert table["hash"] == bundles.load(bundle).hash[:16]
    assert table["selftest"] is True
    assert table["overruns"] == 0
    assert table["samples"] == len(STREAM) + 16000  # and the second of silence
    assert table["instructions_per_inference"] > 100_000
    assert isinstance(table["events"], list)
    # Another hop is another hash: the board says that of what it runs.
    result = kws(*command, "--hop", "98", "--out", str(tmp_path / "build"))
    assert result.returncode == 0, result.stderr
    assert table["hash"] not in result.stdout
    assert "self-test ok" in result.stdout
    result = kws(*command, "--hop", "99")
    assert result.returncode == 2
    assert "1 to 98 feature frames" in result.stderr


def test_build_prints_what_it_takes(bundle: Path, tmp_path: Path) -> None:
    need_compiler()
    out = tmp_path / "build"
    result = kws(
        "build", str(bundle), "--board", "qemu-m0", "--out", str(out), "--json"
    )
    assert result.returncode == 0, result.stderr
    table = json.loads(result.stdout)
    assert Path(table["elf"]).is_file()
    assert table["flash_bytes"] == table["text_bytes"] + table["data_bytes"]
    assert table["flash_limit"] == 2 * 1024 * 1024


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("not_audio.wav", "can't be read as audio"),
        ("empty.wav", "Not a usable recording"),
        ("absent.wav", "no such recording"),
    ],
)
def test_flash_refuses_a_bad_recording(file: str, message: str) -> None:
    result = kws("flash", "any", "--board", "qemu-m4", "--audio", str(BAD_AUDIO / file))
    assert result.returncode == 2
    assert message in result.stderr
    assert re.search(r"^Hint:  \S", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr


def test_flash_refuses_a_board_that_is_not_there() -> None:
    result = kws("flash", "any", "--board", "qemu-m5", "--audio", "x.wav", "--json")
    assert result.returncode == 2
    assert "Did you mean 'qemu-m55'?" in json.loads(result.stdout)["error"]


def test_boards_and_doctor_speak_json() -> None:
    table = json.loads(kws("boards", "--json").stdout)
    assert [row["name"] for row in table["boards"]] == boards.names()
    rows = {row["name"]: row for row in table["boards"]}
    assert rows["nano33ble"]["part"] == "nRF52840"
    assert "2341:805a" in rows["nano33ble"]["usb"]
    assert rows["pico"]["flash_bytes"] == 2 * 1024 * 1024
    result = kws("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["numpy"]["ok"]
    assert result.returncode == 0


def test_a_tool_that_does_not_start_is_not_ok(tmp_path: Path) -> None:
    """It was looked for on the PATH alone."""
    for name, how in (("qemu-system-arm", "exit 127"), ("ffmpeg", "kill -ABRT $$")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{how}\n")
        program.chmod(0o755)
    result = kws("doctor", "--json", path=f"{tmp_path}:/usr/bin:/bin")
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    for name, argument in (("qemu-system-arm", "--version"), ("ffmpeg", "-version")):
        assert not found[name]["ok"] and not found[name]["found"]
        told = f"{tmp_path / name} is there and does not start"
        assert found[name]["hint"].startswith(told)
        assert found[name]["hint"].endswith(argument)


def test_a_bossac_that_knows_no_nano_is_not_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's was, and kws flash --tool bossac then refused it."""
    monkeypatch.setenv("HOME", str(tmp_path))  # of Arduino's folders
    program = tmp_path / "bossac"
    for content, ok in (("ATSAMD21", False), ("nRF52840-QIAA", True)):
        program.write_text(f"#!/bin/sh\n# {content}\n")
        program.chmod(0o755)
        result = kws("doctor", "--json", path=str(tmp_path))
        found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
        assert found["bossac"]["ok"] is ok
        assert found["bossac"]["found"] == (str(program) if ok else "")


def test_doctor_without_tools_names_them_and_how_to_get_them(tmp_path: Path) -> None:
    result = kws("doctor", "--json", path=str(tmp_path))
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert not checks["qemu-system-arm"]["ok"]
    assert "apt-get install qemu-system-arm" in checks["qemu-system-arm"]["hint"]
    assert result.returncode == 0  # no verb but flash and eval --engine qemu needs it


def test_without_qemu_the_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KwsError, match="emulator is not installed") as caught:
        run.listen(tmp_path / "x.elf", boards.load("qemu-m4"), STREAM, "0" * 16)
    assert caught.value.exit_code == 2
    assert "apt-get install qemu-system-arm" in caught.value.hint
