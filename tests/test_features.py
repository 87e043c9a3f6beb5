"""The fixed-point features: against librosa, streamed, at extremes, as emitted C."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import toolbox

from kws import bundle as bundles
from kws.errors import KwsError
from kws.features import (
    FeatureStream,
    c_source,
    extract,
    of_clips,
    reference,
    spec_hash,
    tables,
)
from kws.features.log_mel import log_mel
from kws.recipe import Features

ROOT = Path(__file__).resolve().parents[1]
C_FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/firmware/include"]
FEATURES_C = sorted((ROOT / "firmware/src").glob("features*.c"))
BASELINE = ROOT / "tests/baselines/features.json"

DEFAULT = Features()
KWT1 = Features(mel_bins=80, power=1)
# Every branch of the FFT, the smallest and the widest banks.
SPECS = {
    "default": DEFAULT,
    "kwt1": KWT1,
    "fft256": Features(window=256, fft_size=256, mel_bins=20),
    "fft128": Features(window=128, hop=64, fft_size=128, mel_bins=8),
    "wide-band": Features(low_hz=0.0, high_hz=8000.0, scale=0.1, zero_point=-20),
    "short-window": Features(window=320, hop=320, power=1, scale=0.05),
    "hop20": Features(hop=320, frames=48),
    "floor": Features(hop=320, frames=48, floor=-80),
}


def _tones_and_noise(seconds: float = 1.0, seed: int = 1) -> np.ndarray:
    """Speech-like in level: a glide, harmonics and noise that come and go, int16."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(16000 * seconds)) / 16000
    phase = 2 * np.pi * (120 * time + 300 * time**2)
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    envelope = 10 ** (-3 * np.abs(np.sin(2 * np.pi * 1.5 * time)))
    audio = 6000 * envelope * voice + rng.normal(0, 30, time.size)
    return np.clip(np.rint(audio), -32768, 32767).astype(np.int16)


def _extremes() -> dict[str, np.ndarray]:
    n = np.arange(4000)
    impulse = np.zeros(4000, np.int16)
    impulse[1700] = -32768
    rng = np.random.default_rng(7)
    return {
        "silence": np.zeros(4000, np.int16),
        "one step of DC": np.ones(4000, np.int16),
        "full-scale DC": np.full(4000, -32768, np.int16),
        "full-scale Nyquist": np.where(n % 2, 32767, -32768).astype(np.int16),
        "impulse": impulse,
        "full-scale noise": rng.choice(np.array([-32768, 32767], np.int16), 4000),
        "full-scale sine": np.rint(32767 * np.sin(n * 2 * np.pi / 16)).astype(np.int16),
        "square": np.where(n % 37 < 18, 32767, -32768).astype(np.int16),
    }


def _frozen_audio() -> np.ndarray:
    """Noise from silence to full scale, tones and steps, without a library's generator:
    the same samples for ever."""
    state, noise = 1, []
    for _ in range(16 * 700):
        state = (1664525 * state + 1013904223) % 2**32
        noise.append((state >> 16) - 32768)
    levels = np.repeat(np.arange(16), 700)
    n = np.arange(4000)
    waves = [np.where(n * k // 256 % 2, 32767, -32768) for k in (1, 3, 37, 128, 255)]
    ramp = (n * 97 % 4001 - 2000) * (n % 3 - 1)
    parts = [np.array(noise) >> levels, *waves, ramp, np.zeros(600, int)]
    return np.concatenate(parts).astype(np.int16)


def _data_dir() -> Path:
    return Path(
        os.environ.get("KWS_DATA") or ROOT.parent / "shared/data/speech_commands"
    )


@pytest.fixture(scope="module")
def real_clips() -> np.ndarray:
    """500 clips of the validation or test speakers, int16 [500, 16000]."""
    folder = next(
        (
            _data_dir() / name
            for name in ("val", "test_v0.02")
            if (_data_dir() / name / "index.tsv").is_file()
        ),
        None,
    )
    if folder is None:
        pytest.skip(f"no Speech Commands archives in {_data_dir()} (set KWS_DATA)")
    soundfile = pytest.importorskip("soundfile")
    with (folder / "index.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    chosen = np.random.default_rng(0).permutation(len(rows))[:500]
    by_class = defaultdict(list)
    for index in chosen:
        by_class[rows[index][0]].append(rows[index])
    clips = []
    for name, members in by_class.items():
        audio, rate = soundfile.read(folder / f"{name}.flac", dtype="int16")
        assert rate == 16000
        for _, _, start, length in members:
            clip = audio[int(start) : int(start) + min(int(length), 16000)]
            clips.append(np.pad(clip, (0, 16000 - len(clip))))
    assert len(clips) == 500
    return np.stack(clips)


@pytest.mark.parametrize("name", ["default", "kwt1"])
def test_equals_librosa_on_500_real_clips(name: str, real_clips: np.ndarray) -> None:
    pytest.importorskip("librosa")
    spec = SPECS[name]
    ours = extract(real_clips, spec)
    theirs = np.stack([reference.extract(clip, spec) for clip in real_clips])
    assert ours.shape == theirs.shape == (500, 98, spec.mel_bins)
    steps = np.abs(ours.astype(int) - theirs)
    equal = np.mean(steps == 0)
    print(f"{name}: {equal:.4%} equal, at most {steps.max()} steps apart")
    assert equal >= 0.99
    assert steps.max() <= 2
    # Saturated elements agree too easily; the others must agree as well.
    inside = theirs > -128
    assert np.mean(steps[inside] == 0) >= 0.99


@pytest.mark.filterwarnings("ignore:Empty filters")
@pytest.mark.parametrize("name", SPECS)
def test_equals_librosa_on_synthetic_audio(name: str) -> None:
    pytest.importorskip("librosa")
    spec = SPECS[name]
    audio = _tones_and_noise(3.0)
    ours, theirs = extract(audio, spec), reference.extract(audio, spec)
    steps = np.abs(ours.astype(int) - theirs)
    inside = theirs > -128
    assert np.mean(inside) > 0.3, "the signal must exercise the scale"
    assert np.mean(steps[inside] == 0) >= 0.99
    assert steps.max() <= 1


# Networks that are shipped were trained on these features: not one bit may change.
FROZEN = {
    "default": "157221ac7de69d1c",
    "kwt1": "934e28108e5577f7",
    "fft256": "7bc9c4f6898c6d67",
    "fft128": "45a67388f27fa3f9",
    "wide-band": "fc8a2bfab73f64f3",
    "short-window": "bb8a33c2de71b450",
    "hop20": "ff218e934dfd5a73",
    "floor": "695848c8f6f33c55",
}


@pytest.mark.parametrize("name", SPECS)
def test_features_are_those_that_networks_were_trained_on(name: str) -> None:
    found = extract(_frozen_audio(), SPECS[name])
    assert len(np.unique(found)) > 100
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == FROZEN[name]


def test_equals_a_direct_fourier_sum() -> None:
    """The definition itself, written out with numpy: runs without librosa."""
    spec = DEFAULT
    audio = _tones_and_noise()
    n = np.arange(spec.window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / spec.window)
    k = np.arange(spec.fft_size // 2 + 1)
    basis = np.exp(-2j * np.pi * np.outer(n, k) / spec.fft_size)
    starts = range(0, len(audio) - spec.window + 1, spec.hop)
    frames = np.stack([audio[s : s + spec.window] for s in starts]) / 32768
    power = np.abs((frames * hann) @ basis) ** 2
    hz_to_mel = 2595 * np.log10(1 + np.array([spec.low_hz, spec.high_hz]) / 700)
    edges = 700 * (10 ** (np.linspace(*hz_to_mel, spec.mel_bins + 2) / 2595) - 1)
    hz = k * spec.sample_rate / spec.fft_size
    mel = np.stack(
        [np.interp(hz, edges[m : m + 3], [0.0, 1.0, 0.0]) for m in range(spec.mel_bins)]
    )
    exact = np.log(power @ mel.T) / spec.scale + spec.zero_point
    expected = np.clip(np.rint(exact), -128, 127)
    steps = np.abs(extract(audio, spec) - expected)
    assert np.mean(steps == 0) >= 0.99
    assert steps.max() <= 1


@pytest.mark.parametrize("name", SPECS)
def test_streaming_and_clip_give_the_same_bits(name: str) -> None:
    spec = SPECS[name]
    audio = _tones_and_noise(2.0)
    whole = extract(audio, spec)
    rng = np.random.default_rng(3)
    for chunks in ([1] * 700, [160] * 400, list(rng.integers(0, 3000, 80))):
        stream = FeatureStream(spec)
        parts, at = [], 0
        for chunk in chunks:
            parts.append(stream.push(audio[at : at + chunk]))
            at = min(at + int(chunk), len(audio))
        parts.append(stream.push(audio[at:]))
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_reset_forgets_pending_samples() -> None:
    stream = FeatureStream(DEFAULT)
    stream.push(np.full(400, 9000, np.int16))
    stream.reset()
    audio = _tones_and_noise(0.1)
    np.testing.assert_array_equal(stream.push(audio), extract(audio, DEFAULT))


def test_a_frame_depends_on_its_window_alone() -> None:
    audio = _tones_and_noise()
    changed = audio.copy()
    changed[1600:1650] = -20000
    differing = np.flatnonzero(
        np.any(extract(audio, DEFAULT) != extract(changed, DEFAULT), axis=1)
    )
    first = (1600 - DEFAULT.window) // DEFAULT.hop + 1
    assert differing.min() >= first
    assert differing.max() <= 1649 // DEFAULT.hop


@pytest.mark.parametrize("name", _extremes())
@pytest.mark.parametrize("spec", [DEFAULT, KWT1], ids=["default", "kwt1"])
def test_extremes_follow_librosa(name: str, spec: Features) -> None:
    pytest.importorskip("librosa")
    audio = _extremes()[name]
    ours, theirs = extract(audio, spec), reference.extract(audio, spec)
    # Exact zeros apart, such signals hold bins far below a 16-bit sample's own error,
    # which the fixed point doesn't resolve: compare where there is something to hear.
    energy = reference.mel_spectrum(audio, spec)
    audible = (energy > energy.max() * 1e-12 ** (spec.power / 2)) & (energy > 1e-7)
    steps = np.abs(ours.astype(int) - theirs)[audible]
    if name == "silence":
        assert np.all(ours == -128)
    else:
        assert audible.sum() > 20
        assert steps.max() <= 1


def test_louder_audio_moves_every_bin_by_the_same_steps() -> None:
    """Twice the amplitude is ln(4) / scale steps: no block exponent to slip."""
    quiet = (_tones_and_noise().astype(np.int32) // 16).astype(np.int16)
    low, high = extract(quiet, DEFAULT), extract(quiet * np.int16(8), DEFAULT)
    inside = (low > -128) & (high < 127)
    shift = (high.astype(int) - low)[inside]
    assert inside.sum() > 500
    assert np.abs(shift - np.log(64) / DEFAULT.scale).max() <= 1


def test_batches_and_threads_change_nothing() -> None:
    clips = np.stack([_tones_and_noise(seed=seed) for seed in range(150)])
    batch = extract(clips, DEFAULT)
    assert batch.shape == (150, 98, 40)
    assert batch.dtype == np.int8
    np.testing.assert_array_equal(batch[3], extract(clips[3], DEFAULT))
    np.testing.assert_array_equal(batch, extract(clips, DEFAULT, threads=3))
    # A view that is not contiguous is copied, not misread.
    np.testing.assert_array_equal(batch[::2], extract(clips[::2], DEFAULT))
    np.testing.assert_array_equal(
        extract(clips[:, ::2], DEFAULT), extract(clips[:, ::2].copy(), DEFAULT)
    )
    assert extract(clips[:0], DEFAULT).shape == (0, 98, 40)
    assert extract(np.zeros(480, np.int16), DEFAULT).shape == (1, 40)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros(16000, np.float32), "float32"),
        (np.zeros(16000, ">i2"), ">i2"),
        (np.zeros((2, 2, 16000), np.int16), "[2, 2, 16000]"),
        (np.zeros(479, np.int16), "479 samples"),
        ([0] * 16000, "list"),
    ],
)
def test_bad_audio_is_refused(audio: object, words: str) -> None:
    with pytest.raises(KwsError) as error:
        extract(audio, DEFAULT)  # type: ignore[arg-type]
    assert "Received" in error.value.message and words in error.value.message
    assert error.value.hint


def test_stream_refuses_two_channels() -> None:
    with pytest.raises(KwsError, match="Received"):
        FeatureStream(DEFAULT).push(np.zeros((2, 160), np.int16))


@pytest.mark.parametrize(
    "change",
    [
        {"sample_rate": 8000},
        {"window": 481},
        {"window": 0},
        {"window": 512},
        {"hop": 0},
        {"fft_size": 1024},
        {"fft_size": 256},
        {"mel_bins": 81},
        {"mel_bins": 7},
        {"power": 3},
        {"low_hz": -1.0},
        {"low_hz": 7600.0},
        {"low_hz": 100.0, "high_hz": 110.0},
        {"high_hz": 8001.0},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"zero_point": 128},
        {"floor": 1},
        {"floor": -129},
    ],
    ids=str,
)
def test_bad_specifications_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(KwsError, match="Received") as error:
        tables(dataclasses.replace(DEFAULT, **change))
    assert next(iter(change)) in error.value.message


def test_threads_must_be_a_small_number() -> None:
    with pytest.raises(KwsError, match="threads=0"):
        extract(np.zeros(16000, np.int16), DEFAULT, threads=0)


def test_clips_longer_than_what_the_model_sees() -> None:
    clips = np.random.default_rng(0).integers(-3000, 3000, (3, 16000), np.int16)
    spec = Features(frames=96)
    found = of_clips(clips, spec)
    np.testing.assert_array_equal(found, extract(clips, Features())[:, :96])
    with pytest.raises(KwsError, match="frames = 99 .* clips of 16000 samples"):
        of_clips(clips, Features(frames=99))


def test_what_is_quieter_than_the_floor_is_the_floor() -> None:
    """And nothing else changes, in the C and in the floats that stand for it."""
    audio = _tones_and_noise()
    bare, floor = SPECS["hop20"], SPECS["floor"]
    without = extract(audio, bare)
    assert (without < -80).mean() > 0.1
    np.testing.assert_array_equal(extract(audio, floor), np.maximum(without, -80))
    real = log_mel(audio[None], bare)
    np.testing.assert_allclose(
        log_mel(audio[None], floor), np.maximum(real, -6.4), 1e-6
    )
    # A quiet room is constant: noise at -62 dBFS, as microphones have it.
    room = np.random.default_rng(1).normal(0, 32768 * 10 ** (-62 / 20), 16000)
    quiet = extract(np.rint(room).astype(np.int16), floor)
    assert (quiet == -80).mean() > 0.8


def test_a_bundle_keeps_its_hash_where_there_is_no_floor() -> None:
    """Of before there was one: the board and the PC know a model by it."""
    assert bundles.load("kwt-tiny").hash.startswith("fc671728a1e7b439")


def test_hash_names_the_arithmetic() -> None:
    assert spec_hash(DEFAULT) == spec_hash(Features())
    # The number of frames is the model's affair, not the frame's.
    assert spec_hash(DEFAULT) == spec_hash(dataclasses.replace(DEFAULT, frames=49))
    hashes = {spec_hash(spec) for spec in SPECS.values()}
    assert len(hashes) == len(SPECS)


def test_a_name_that_is_no_identifier_is_refused() -> None:
    with pytest.raises(KwsError, match="identifier"):
        c_source(DEFAULT, "a; int b")


SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]


def _host_compiler(folder: Path, flags: list[str]) -> str:
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        toolbox.skip_or_fail("there is no C compiler (cc)")
    assert compiler is not None
    probe = folder / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    command = [compiler, *flags, str(probe), "-o", str(folder / "probe")]
    if subprocess.run(command, capture_output=True).returncode != 0:
        toolbox.skip_or_fail(f"{compiler} cannot link with {flags}")
    return compiler


@pytest.mark.parametrize(
    "flags",
    [["-O2"], ["-O1", *SANITIZE], ["-O1", "-DKWS_FEATURES_HALVES", *SANITIZE]],
    ids=["plain", "asan", "halves-asan"],
)
@pytest.mark.parametrize("name", SPECS)
def test_emitted_c_gives_the_same_bits(
    name: str, flags: list[str], tmp_path: Path
) -> None:
    """Emitted tables and firmware C, no Python; sanitizers see the extremes as well."""
    compiler = _host_compiler(tmp_path, flags)
    spec = SPECS[name]
    (tmp_path / "spec.c").write_text(c_source(spec, "test_features"))
    program = tmp_path / "features"
    sources = [tmp_path / "spec.c", *FEATURES_C, ROOT / "tests/c/features_on_host.c"]
    subprocess.run(
        [compiler, *C_FLAGS, *flags, *map(str, sources), "-o", str(program)], check=True
    )
    audio = np.concatenate([_tones_and_noise(), *_extremes().values(), _frozen_audio()])
    # Full-scale square waves in phase with each bin: the largest sums there are.
    n = np.arange(512)
    for k in range(0, 257, 4):
        wave = np.cos(2 * np.pi * k * n / 512)
        audio = np.append(audio, np.where(wave >= 0, 32767, -32768).astype(np.int16))
    for samples in (audio, audio[: spec.window], audio[: spec.window - 1]):
        run = subprocess.run([program], input=samples.tobytes(), capture_output=True)
        assert run.returncode == 0, run.stderr.decode()
        received = np.frombuffer(run.stdout, np.int8).reshape(-1, spec.mel_bins)
        if len(samples) < spec.window:
            assert len(received) == 0
        else:
            np.testing.assert_array_equal(received, extract(samples, spec))


@pytest.mark.parametrize("name", SPECS)
def test_halves_cannot_overflow(name: str) -> None:
    """What firmware/src/features_internal.h says of cores without a long product."""
    values = tables(SPECS[name])
    twiddles = values.twiddles.reshape(-1, 3)
    np.testing.assert_array_equal(twiddles[:, 2], -twiddles[:, 1])
    pairs = np.concatenate([twiddles[:, :2], values.split.reshape(-1, 2)])
    assert not np.any(np.all(pairs.astype(np.int16) == -32768, axis=1))
    # The largest value that enters a stage: the window over every 4th, 16th ... pair.
    points, quarter = values.fft_size // 2, values.fft_size // 2 // len(values.order)
    blocks = values.windows.reshape(len(values.order), quarter, 2)[values.order]
    window = np.hypot(*blocks.transpose(2, 1, 0).reshape(2, -1).astype(float))
    halvings = 1
    while quarter < points:
        largest = max(window[r :: points // quarter].sum() for r in range(points))
        assert 32768 / 2**15 * largest / 2**halvings < 2**29.5
        quarter, halvings = 4 * quarter, halvings + 1
    assert halvings > 2


# Machine, counter's address, its period in ns, flags for gcc, flags for zig, core.
M0 = (
    "mps2-an385",
    "0x40028018",
    40,
    ["-mcpu=cortex-m0plus"],
    ["-target", "thumb-freestanding-eabi", "-mcpu=cortex_m0plus"],
)
M4 = (
    "mps2-an386",
    "0x40028018",
    40,
    ["-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
    ["-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp"],
)
M33 = (
    "mps2-an505",
    "0x50302018",
    50,
    ["-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"],
    ["-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m33+dsp+fp_armv8d16sp"],
)
M55 = (
    "mps3-an547",
    "0x59302018",
    50,
    ["-mcpu=cortex-m55", "-mfloat-abi=hard"],
    ["-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m55+mve_fp"],
)
BOARDS = {
    "m0": (*M0, "portable"),
    "m4": (*M4, "dsp"),
    "m33": (*M33, "dsp"),
    "m55": (*M55, "mve"),
    "m4-portable": (*M4, "portable"),
    "m55-dsp": (*M55, "dsp"),
}
MEMORY = {"m33": (0x10000000, 0x38000000)}  # flash and RAM; others: 0, 0x20000000
LINKER_SCRIPT = """
MEMORY {
  FLASH (rx) : ORIGIN = flash, LENGTH = 256K
  RAM (rwx) : ORIGIN = ram, LENGTH = 64K
}
ENTRY(reset)
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > FLASH
  .ARM.exidx : { *(.ARM.exidx*) } > FLASH
  .bss (NOLOAD) : { *(.bss*) *(COMMON) } > RAM
}
"""
STACK_BYTES = 8 * 257 + 640  # KWS_FEATURES_STACK_BYTES
# The bound: 1.5 M instructions a second at a hop of 10 ms.
MAX_INSTRUCTIONS_M4 = 15_000


def _cross_compiler(name: str, gcc_flags: list[str], zig_flags: list[str]) -> list[str]:
    toolbox.need_compiler(name)
    if name == "gcc":
        return ["arm-none-eabi-gcc", "-mthumb", "-nostdlib", *gcc_flags]
    zig = [sys.executable, "-m", "ziglang", "cc"]
    return [*zig, "-fno-sanitize=all", "-Wno-unused-command-line-argument", *zig_flags]


def _on_board(
    spec: Features, audio: np.ndarray, board: str, compiler: str, folder: Path
) -> tuple[np.ndarray, int, int]:
    """Features [frames, mel_bins], most instructions and most stack of a frame."""
    toolbox.need_qemu()
    machine, counter, tick_ns, gcc_flags, zig_flags, core = BOARDS[board]
    command = _cross_compiler(compiler, gcc_flags, zig_flags)
    numbers = ",".join(map(str, audio))
    (folder / "spec.c").write_text(
        c_source(spec, "test_features")
        + f"const int16_t test_samples[] = {{{numbers}}};\n"
        + f"const uint32_t test_sample_count = {len(audio)};\n"
    )
    flash, ram = MEMORY.get(board, (0, 0x20000000))
    script = LINKER_SCRIPT.replace("flash", hex(flash)).replace("ram", hex(ram))
    (folder / "link.ld").write_text(script)
    image = folder / "features.elf"
    sources = [folder / "spec.c", *FEATURES_C, ROOT / "tests/c/features_on_board.c"]
    subprocess.run(
        [
            *command,
            *C_FLAGS,
            "-O2",
            "-ffreestanding",
            f"-DKWS_CORE_{core.upper()}=1",
            f"-DTEST_COUNTER={counter}",
            f"-DTEST_TICK_NS={tick_ns}",
            *map(str, sources),
            *(["-lgcc"] if compiler == "gcc" else []),
            "-T",
            str(folder / "link.ld"),
            "-o",
            str(image),
        ],
        check=True,
        capture_output=compiler == "zig",  # lld warns about _start
    )
    run = subprocess.run(
        ["qemu-system-arm", "-M", machine, "-kernel", image, "-nographic"]
        + ["-monitor", "none", "-serial", "null", "-icount", "shift=8"]
        + ["-semihosting-config", "enable=on,target=native"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    features, instructions, stack = run.stderr.split()
    received = np.frombuffer(bytes.fromhex(features), np.int8)
    return (
        received.reshape(-1, spec.mel_bins),
        int(instructions, 16),
        int(stack, 16),
    )


CORES = ("m0", "m4", "m33", "m55")
SOME = ("default", "kwt1")  # of an M33, which has the M4's code
CASES = [
    (name, board, "gcc")
    for name in SPECS
    for board in CORES
    if name in SOME or board != "m33"
]
CASES += [(name, board, "zig") for name in SOME for board in CORES]
CASES += [("default", board, "gcc") for board in ("m4-portable", "m55-dsp")]


@pytest.mark.parametrize(("name", "board", "compiler"), CASES)
def test_boards_give_the_same_bits_within_the_budget(
    name: str, board: str, compiler: str, tmp_path: Path
) -> None:
    spec = SPECS[name]
    audio = [_tones_and_noise(0.3), _frozen_audio()]
    audio += [clip[:800] for clip in _extremes().values()]
    samples = np.concatenate(audio)
    received, instructions, stack = _on_board(spec, samples, board, compiler, tmp_path)
    np.testing.assert_array_equal(received, extract(samples, spec))
    print(
        f"{name} {board} {compiler}: {instructions:,} instructions a frame, "
        f"{stack:,} bytes of stack"
    )
    assert stack <= STACK_BYTES
    if (name, board) == ("default", "m4"):
        assert instructions <= MAX_INSTRUCTIONS_M4
    baseline = json.loads(BASELINE.read_text())
    counted = baseline["instructions"].get(name, {}).get(board)
    if compiler == "gcc" and counted is not None:
        # Less is a reason to write it down there: the docs follow it.
        assert instructions == pytest.approx(counted, rel=baseline["tolerance"])


def test_every_compiled_core_has_a_baseline() -> None:
    baseline = json.loads(BASELINE.read_text())["instructions"]
    assert all(set(CORES) == set(boards) for boards in baseline.values())
    assert set(baseline) <= set(SPECS)


@pytest.mark.parametrize("board", CORES)
def test_boards_give_the_same_bits_of_speech(
    board: str, real_clips: np.ndarray, tmp_path: Path
) -> None:
    samples = real_clips[:5].ravel()
    received, *_ = _on_board(DEFAULT, samples, board, "gcc", tmp_path)
    np.testing.assert_array_equal(received, extract(samples, DEFAULT))
