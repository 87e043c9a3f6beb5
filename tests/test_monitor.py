"""kws monitor and kws listen: the protocol, a serial port, an emulated board, here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from fake_model import tone
from toolbox import need_compiler, need_portaudio, need_qemu

from kws import bundle as bundles
from kws.cli import cli
from kws.cli.listen import command as listen_command
from kws.cli.monitor import command as monitor_command
from kws.deploy import boards, flash, live, monitor, serial_port
from kws.deploy.failures import BoardError
from kws.errors import CheckFailed, KwsError

HASH = "0123456789abcdef"
BOOT = f"kws boot name=x hash={HASH} schema=1 app=main labels=3 arena=9 weights=8\n"
BEAT = (
    f"kws beat hash={HASH} schema=1 time_ms=2000 peak=16384 overruns=3 inferences=7 "
    "frame_cost=30000 cost=640000 macs=250 macs_dense=1000\n"
)
EVENT = 'kws event word="hey robot" start_ms=120 time_ms=1120 score=0.930\n'


def follow(**options: Any) -> monitor.Monitor:
    return monitor.Monitor(lambda cost: cost / 64000, board="b", run="r", **options)


def test_the_first_decision_says_nothing_of_what_was_skipped() -> None:
    """A stream counts it from its start: 24 steps against the work of one."""
    first = BEAT.replace("inferences=7", "inferences=1").replace(
        "macs=250", "macs=6050"
    )
    message, later = follow().feed((first + BEAT).encode())
    assert message["skipped"] is None and later["skipped"] == 0.75
    assert "skipped" not in monitor.text(message)


def test_lines_become_messages() -> None:
    messages = follow(expected_hash=HASH).feed(
        (BOOT + "kws selftest ok\n" + BEAT + EVENT + "kws end\nhello\n").encode()
    )
    boot, selftest, beat, event, end, other = messages
    assert boot["kind"] == "boot"
    assert (boot["hash"], boot["labels"]) == (HASH, 3)
    assert selftest == {"kind": "selftest", "ok": True}
    assert beat == {
        "kind": "beat",
        "time_s": 2.0,
        "level_db": -6.0,
        "inference_ms": 10.0,
        "cost": 640000,
        "skipped": 0.75,
        "overruns": 3,
        "inferences": 7,
        "hash": HASH,
        "stack": None,
        "stack_size": None,
        "microphone": None,
    }
    assert event == {
        "kind": "event",
        "word": "hey robot",
        "start_s": 0.12,
        "time_s": 1.12,
        "score": 0.93,
    }
    assert end == {"kind": "end"}
    assert other == {"kind": "other", "text": "hello"}
    shown = [monitor.text(message) for message in messages]
    line = "2.00 s [################## ] -6.0 dB inference 10.0 ms skipped 75 % lost 3"
    assert " ".join(shown[2].split()) == line
    assert shown[3].split() == ["1.12", "s", "hey", "robot", "score", "0.93"]
    assert shown[4] == "end"


def test_bytes_may_come_in_any_pieces() -> None:
    text = (BOOT + BEAT + EVENT).replace("\n", "\r\n").encode()
    whole = follow().feed(text)
    assert len(whole) == 3
    rng = random.Random(1)
    for _ in range(20):
        following, got, at = follow(), [], 0
        while at < len(text):
            step = rng.randint(1, 40)
            got += following.feed(text[at : at + step])
            at += step
        assert got == whole


def test_a_hostile_board_costs_no_memory_and_no_exception() -> None:
    following = follow()
    for _ in range(200):
        following.feed(b"x" * 10_000)
    assert len(following._line) <= monitor.MAX_LINE + 2
    # The endless line is dropped, and what comes behind it is heard.
    assert following.feed(b"\n" + EVENT.encode())[0]["kind"] == "event"
    rng = random.Random(2)
    noise = bytes(rng.randrange(256) for _ in range(50_000)).replace(b"\n", b"")
    bad = [
        BEAT.replace("peak=16384", "peak=-1"),
        BEAT.replace("peak=16384", "peak=many"),
        BEAT.replace(" schema=1", ""),
        "kws beat\n",
        BEAT.replace("peak=16384", "peak=" + "9" * 400),
        BEAT.replace("time_ms=2000", "time_ms=" + "9" * 400),
        BEAT.replace("cost=640000", "cost=" + "9" * 400),
        "kws event word=yes score=nan-nan start_ms=1 time_ms=1\n",
        "kws event word=yes score=nan start_ms=1 time_ms=1\n",
        "kws event word=yes score=1e400 start_ms=1 time_ms=1\n",
        "\x1b]0;a terminal's title\x07\n",
        "kws operator index=1\n",
        "kws boot" + " a=b" * 2000 + "\n",
    ]
    messages = following.feed(noise + b"\n" + "".join(bad).encode())
    assert {message["kind"] for message in messages} <= {"other"}
    assert all(len(message["text"]) <= monitor.MAX_LINE for message in messages)
    assert all(message["text"].isprintable() for message in messages)
    read = monitor.parse("".join(bad))
    assert not (read.beats or read.events or read.operators)
    assert all(line.isprintable() for line in read.other)
    level = monitor.parse(BEAT.replace("peak=16384", "peak=0")).beats[0].level_db
    assert level == pytest.approx(-90.3, abs=0.1)


def test_another_version_or_model_is_refused_at_any_time() -> None:
    for line in (BOOT, BEAT):
        with pytest.raises(BoardError, match="version 2, expected 1"):
            follow().feed(line.replace("schema=1", "schema=2").encode())
        with pytest.raises(BoardError, match=f"hash {HASH}, expected f"):
            follow(expected_hash="f" * 16).feed(line.encode())


# --- a serial port --------------------------------------------------------------------


def test_a_board_on_a_serial_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pty is the wire; the board says what a real one says, then falls silent."""
    pytest.importorskip("serial", reason="pyserial is not installed")
    monkeypatch.setattr(live, "SILENT_S", 1.0)
    bundle = bundles.load("kwt-tiny")
    ours, theirs = os.openpty()
    beat = BEAT.replace(HASH, bundle.hash[:16])

    said: list[str] = []

    def board() -> None:
        for text in said:
            os.write(ours, text.encode("latin-1"))
            time.sleep(0.05)

    class Port(serial_port.Port):
        """Opening a port empties it: the board speaks once it is open."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            threading.Thread(target=board).start()

    monkeypatch.setattr(serial_port, "Port", Port)
    arguments = ["kwt-tiny", "--board", "nrf52840dk", "--port", os.ttyname(theirs)]
    said += ["\xff\x00half a li", "ne\n", beat, EVENT, beat]
    result = CliRunner().invoke(monitor_command, [*arguments, "--json"])
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    kinds = [message["kind"] for message in messages if message["kind"] != "other"]
    assert kinds == ["beat", "event", "beat"]
    # 640,000 cycles at 64 MHz.
    assert messages[-1]["inference_ms"] == 10.0
    assert isinstance(result.exception, BoardError)
    assert result.exception.key == "silent"

    # With a time limit it ends by itself.
    said[-1] = beat.replace("time_ms=2000", "time_ms=4000")
    result = CliRunner().invoke(monitor_command, [*arguments, "--seconds", "2"])
    assert result.exit_code == 0, result.output
    assert "skipped 75 %" in result.stdout

    # The board runs another model: its very first heartbeat tells.
    said[:] = [BEAT]
    result = CliRunner().invoke(monitor_command, arguments)
    assert isinstance(result.exception, BoardError)
    assert result.exception.key == "hash"

    # What was typed stands in the hint: without it, it would lead back here.
    result = CliRunner().invoke(monitor_command, [*arguments, "--hop", "8"])
    assert isinstance(result.exception, BoardError)
    port = f"--port {os.ttyname(theirs)}"
    hint = f"kws flash kwt-tiny --board nrf52840dk {port} --hop 8"
    assert (result.exception.key, result.exception.hint) == ("hash", hint)

    # Silent after an interrupted flash: said so.
    folder = flash.output_folder(bundle, boards.load("nrf52840dk"))
    said.clear()
    monkeypatch.setattr(flash, "interrupted", lambda out: out == folder)
    result = CliRunner().invoke(monitor_command, arguments)
    assert isinstance(result.exception, BoardError)
    assert result.exception.key == "interrupted"
    os.close(ours)
    os.close(theirs)


class Wire:
    """A pty, and a board at its other end that a test plays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("serial", reason="pyserial is not installed")
        self.ours, self.theirs = os.openpty()
        self.bundle = bundles.load("kwt-tiny")
        self.beat = BEAT.replace(HASH, self.bundle.hash[:16]).encode()
        self.over = threading.Event()
        self.monkeypatch = monkeypatch

    def monitor(self, says: Callable[[], None], *options: str) -> Any:
        """What `kws monitor` makes of a board; its port is open when it begins."""

        class Port(serial_port.Port):
            def __init__(port, *arguments: Any) -> None:
                super().__init__(*arguments)
                threading.Thread(target=says, daemon=True).start()

        self.monkeypatch.setattr(serial_port, "Port", Port)
        name = os.ttyname(self.theirs)
        arguments = ["kwt-tiny", "--board", "nrf52840dk", "--port", name, "--json"]
        try:
            return CliRunner().invoke(monitor_command, [*arguments, *options])
        finally:
            self.over.set()


@pytest.mark.parametrize("replies", [True, False])
def test_a_board_that_was_told_to_be_quiet_is_waited_for_once_it_has_agreed(
    replies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost reply would else be waited for until somebody presses Ctrl-C."""
    monkeypatch.setattr(live, "SILENT_S", 0.5)
    wire = Wire(monkeypatch)

    def board() -> None:
        os.write(wire.ours, wire.beat)
        os.read(wire.ours, 100)  # the command
        if replies:
            os.write(wire.ours, b"kws reply to=0 status=ok\n")
            time.sleep(1.5)  # longer than is borne else
            os.write(wire.ours, EVENT.encode())

    # It sends no beat any more: seconds of waiting are what ends it.
    result = wire.monitor(board, "--send", "verbosity level=0", "--seconds", "3")
    kinds = [json.loads(line)["kind"] for line in result.stdout.splitlines()]
    if replies:
        assert result.exit_code == 0, result.output
        assert kinds == ["beat", "reply", "event"]
    else:
        assert kinds == ["beat"]
        assert isinstance(result.exception, BoardError)
        assert result.exception.key == "silent"
        assert "no reply to 'verbosity level=0'" in result.exception.message


def test_a_lost_reply_is_told_and_the_next_command_goes_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "REPLY_S", 0.2)
    wire = Wire(monkeypatch)
    got: list[bytes] = []

    def board() -> None:
        for _ in range(2):
            os.write(wire.ours, wire.beat)
            got.append(os.read(wire.ours, 100))
        os.write(wire.ours, b"kws reply to=1 status=ok\n")
        time.sleep(0.4)
        os.write(wire.ours, wire.beat.replace(b"time_ms=2000", b"time_ms=11000"))

    options = ("--send", "query", "--send", "gain value=10", "--seconds", "9")
    result = wire.monitor(board, *options)
    assert isinstance(result.exception, CheckFailed), result.output
    assert "Received: 'query': no reply" in result.exception.message
    assert [b"query" in got[0], b"gain" in got[1]] == [True, True]
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    (lost,) = [m for m in messages if m["kind"] == "unanswered"]
    assert lost["command"] == "query" and "send it again" in monitor.text(lost)


@pytest.mark.parametrize("status", ["ok", "absent"])
def test_a_command_that_was_not_obeyed_is_no_success(
    status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(monkeypatch)

    def board() -> None:
        os.write(wire.ours, wire.beat)
        os.read(wire.ours, 100)
        os.write(wire.ours, b"kws reply to=0 status=%s\n" % status.encode())
        os.write(wire.ours, wire.beat.replace(b"time_ms=2000", b"time_ms=11000"))

    result = wire.monitor(board, "--send", "gain value=10", "--seconds", "5")
    if status == "ok":
        assert result.exit_code == 0, result.output
    else:
        assert isinstance(result.exception, CheckFailed), result.output
        assert "Received: 'gain value=10': absent" in result.exception.message


def test_an_emulated_board_that_does_not_obey_is_no_success() -> None:
    need_compiler()
    need_qemu()
    told = ("--send", "query", "--send", "gain value=10")
    arguments = ["kwt-tiny", "--board", "qemu-m4", *told]
    done = CliRunner().invoke(monitor_command, arguments)
    assert isinstance(done.exception, CheckFailed), done.output
    assert "Received: 'gain value=10': absent" in done.exception.message
    assert "query" not in done.exception.message


def test_seconds_are_those_that_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those that the board was up before; a start within them is no start anew."""
    wire = Wire(monkeypatch)
    boot = BOOT.replace(HASH, wire.bundle.hash[:16]).encode()

    def beat(seconds: int) -> bytes:
        return wire.beat.replace(b"time_ms=2000", b"time_ms=%d" % (1000 * seconds))

    def board() -> None:
        for line in (beat(3601), beat(3603), boot, beat(1), beat(2), beat(3)):
            os.write(wire.ours, line)

    result = wire.monitor(board, "--seconds", "5")
    assert result.exit_code == 0, result.output
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    assert [m.get("time_s") for m in messages] == [3601, 3603, None, 1, 2]


def test_a_board_of_another_kind_that_never_ends_its_line_is_no_endless_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "SILENT_S", 0.5)
    wire = Wire(monkeypatch)

    def board() -> None:
        while not wire.over.wait(0.05):
            os.write(wire.ours, b"x" * 100)

    result = wire.monitor(board)
    assert isinstance(result.exception, BoardError)
    assert result.exception.key == "silent"
    assert "no line that kws knows" in result.exception.message


def test_a_port_that_takes_nothing_is_no_endless_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serial_port, "WRITE_S", 0.3)
    wire = Wire(monkeypatch)
    board = boards.load("nrf52840dk")
    with (
        serial_port.Port(os.ttyname(wire.theirs), board, "r") as port,
        pytest.raises(BoardError, match="it took nothing in 0.3 s"),
    ):
        for _ in range(100):  # nobody reads at the other end
            port.write("x" * 4096)


def test_an_emulated_board_without_a_recording_says_what_it_hears() -> None:
    """No wire is to blame for silence that nobody asked for."""
    need_compiler()
    need_qemu()
    arguments = ["kwt-tiny", "--board", "qemu-m4"]
    done = CliRunner().invoke(monitor_command, arguments)
    assert done.exit_code == 0, done.output
    assert "MICROPHONE" not in done.output and "-90.3 dB" in done.stdout
    told, way_out = done.stderr.split("kws monitor")
    assert "1 s of silence" in told
    assert way_out == " kwt-tiny --board qemu-m4 --audio tape.wav\n"


def test_no_wire_is_blamed_for_a_recording() -> None:
    (beat,) = follow().feed(
        BEAT.replace("macs_dense=1000", "macs_dense=0 mic=zeros").encode()
    )
    assert "data line" in monitor.text(beat)
    assert "zeros" not in monitor.text(beat, recording=True)
    beat["microphone"] = "clipping"
    assert "BOARD_GAIN" in monitor.text(beat)
    assert monitor.text(beat, recording=True).endswith("the recording is too loud here")


def test_options_that_don_t_fit_the_board() -> None:
    for arguments in (
        ["--board", "qemu-m4", "--port", "/dev/null"],
        ["--board", "nrf52840dk", "--audio", "x.wav"],
    ):
        result = CliRunner().invoke(monitor_command, ["kwt-tiny", *arguments])
        assert isinstance(result.exception, KwsError), result.output
        assert f"Received: {arguments[2]}" in str(result.exception)


# --- the same C on a board and here ---------------------------------------------------


def talkative(folder: Path) -> bundles.Bundle:
    """A run of its own: kwt-tiny that hears words in anything, and skips work."""
    bundle = bundles.load("kwt-tiny")
    detector = dataclasses.replace(
        bundle.recipe.detector,
        threshold=0.02,
        rearm=0.02,
        word_thresholds=(),
        refractory_ms=160,
    )
    recipe = dataclasses.replace(bundle.recipe, detector=detector)
    folder.mkdir()
    for file in ("model.tflite", "weights.h5"):
        (folder / file).write_bytes((bundle.path / file).read_bytes())
    changed = dataclasses.replace(
        bundle, path=folder, recipe=recipe, thresholds={"X": 2, "P": 1}
    )
    bundles.save(changed)
    return changed


def test_listening_here_is_listening_on_the_board(tmp_path: Path) -> None:
    need_compiler()
    need_qemu()
    run = talkative(tmp_path / "run")
    rng = np.random.default_rng(3)
    loud = np.repeat(rng.uniform(100, 9000, 20), 2000)
    noise = np.clip(rng.normal(0, 1, 40000) * loud, -32768, 32767).astype(np.int16)
    audio = tmp_path / "audio.wav"
    soundfile.write(audio, noise + tone(700, 40000) // 4, 16000)

    arguments = [str(run.path), "--json"]
    here = CliRunner().invoke(listen_command, [*arguments, "--audio", str(audio)])
    assert here.exit_code == 0, here.output
    there = CliRunner().invoke(
        monitor_command, [*arguments, "--board", "qemu-m4", "--audio", str(audio)]
    )
    assert there.exit_code == 0, there.output

    def of_kind(output: str, kind: str) -> list[dict[str, Any]]:
        messages = [json.loads(line) for line in output.splitlines()]
        return [message for message in messages if message["kind"] == kind]

    events = of_kind(here.stdout, "event")
    assert len(events) >= 3
    assert of_kind(there.stdout, "event") == events
    ours, theirs = of_kind(here.stdout, "beat"), of_kind(there.stdout, "beat")
    assert len(ours) == 3
    # Beats come with the next audio that is taken; what was skipped is the same.
    assert {beat["hash"] for beat in ours + theirs} == {run.hash[:16]}
    told = [beat["skipped"] for beat in ours + theirs if beat["skipped"] is not None]
    assert len(told) >= 2 and all(0.05 < skipped < 0.95 for skipped in told)
    assert all(beat["overruns"] == 0 for beat in ours + theirs)
    assert all(-20 < beat["level_db"] <= 0 for beat in ours[:2])
    # The last second is silence.
    assert (
        of_kind(here.stdout, "end") == of_kind(there.stdout, "end") == [{"kind": "end"}]
    )
    text = (
        CliRunner()
        .invoke(
            listen_command, [str(run.path), "--audio", str(audio), "--seconds", "2"]
        )
        .stdout
    )
    assert "skipped" in text
    assert text.count(" dB ") == 2


def test_a_hop_that_was_kept_is_the_runs(tmp_path: Path) -> None:
    """What `kws flash` said is what `kws monitor` and `kws listen` then expect."""
    need_compiler()
    need_qemu()
    run = talkative(tmp_path / "run")
    audio = tmp_path / "audio.wav"
    soundfile.write(audio, tone(700, 16000) // 4, 16000)

    def kws(verb: str, *options: str) -> Any:
        where = [] if verb == "listen" else ["--board", "qemu-m4"]
        arguments = [verb, str(run.path), *where, "--json", *options]
        return CliRunner().invoke(cli, arguments)

    def hashes(*command: str) -> set[str]:
        done = kws(*command, "--audio", str(audio))
        assert done.exit_code == 0, done.output
        messages = [json.loads(line) for line in done.stdout.splitlines()]
        return {m["hash"] for m in messages if "hash" in m}

    other = flash.with_hop(run, 30)
    assert other.hash != run.hash
    assert hashes("listen", "--hop", "30") == {other.hash[:16]}
    assert hashes("monitor", "--hop", "30") == {other.hash[:16]}
    assert bundles.load(run.path) == run
    refused = kws("flash", "--keep")
    assert isinstance(refused.exception, SystemExit) and "--hop" in refused.output
    # What was changed while the board heard is not taken back.
    whole = flash.flash

    def meanwhile(*arguments: Any) -> flash.Flashed:
        bundles.save(flash.with_hop(run, 20))
        return whole(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(flash, "flash", meanwhile)
        refused = kws("flash", "--hop", "30", "--keep")
    assert isinstance(refused.exception, KwsError)
    assert "changed meanwhile" in refused.exception.message
    assert bundles.load(run.path) == flash.with_hop(run, 20)
    bundles.save(run)
    done = kws("flash", "--hop", "30", "--keep")
    assert done.exit_code == 0, done.output
    assert bundles.load(run.path).hash == other.hash
    assert hashes("monitor") == {other.hash[:16]}
    shipped = CliRunner().invoke(
        cli, ["flash", "kwt-tiny", "--board", "qemu-m4", "--hop", "30", "--keep"]
    )
    assert isinstance(shipped.exception, KwsError)
    assert "cp -r" in shipped.exception.hint


def test_a_verb_that_is_killed_takes_its_emulator_along(tmp_path: Path) -> None:
    """`kill` (SIGTERM) left qemu-system-arm running and its folder behind."""
    need_compiler()
    need_qemu()
    audio, temporary = tmp_path / "audio.wav", tmp_path / "tmp"
    temporary.mkdir()
    run = talkative(tmp_path / "run").path
    soundfile.write(audio, np.tile(tone(700, 16000) // 4, 600), 16000)
    code = "from kws.cli import main; main()"
    arguments = ["monitor", str(run), "--board", "qemu-m4", "--audio", str(audio)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--json"],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # the board speaks
        assert list(temporary.glob("kws-run-*"))
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert list(temporary.iterdir()) == []
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            lines.append(file.read_bytes())
    assert lines and not any(str(run / "build").encode() in line for line in lines)


MICROPHONE = """
import numpy as np
from kws.deploy import live
with live.microphone() as blocks:
    heard = np.concatenate([next(blocks) for _ in range(10)])
print(heard.dtype, len(heard), heard.tobytes() == open("said.raw", "rb").read(32000))
"""


SLOW = """
import time
from kws.deploy import live
live.MAX_BLOCKS = 1
with live.microphone() as blocks:
    next(blocks)
    time.sleep(1)
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize(
    ("script", "heard", "told"),
    [(MICROPHONE, "int16 16000 True\n", ""), (SLOW, "", "s of sound were lost")],
)
def test_the_microphone_gives_what_it_hears(
    script: str, heard: str, told: str, tmp_path: Path
) -> None:
    """PortAudio itself, on an ALSA device that reads a file."""
    need_portaudio()
    said = 3000 * np.sin(np.arange(16000 * 20) / 7)
    (tmp_path / "said.raw").write_bytes(said.astype("<i2").tobytes())
    (tmp_path / ".asoundrc").write_text(
        'pcm.!default { type file slave.pcm "null" file "/dev/null" '
        f'infile "{tmp_path / "said.raw"}" format "raw" }}\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == heard and told in done.stderr


def test_a_microphone_that_was_unplugged_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "SILENT_S", 0.05)
    with pytest.raises(KwsError, match="no sound any more") as caught:
        live._next(queue.Queue(), "kws listen RUN --audio recording.wav")
    assert "kws listen RUN --audio" in caught.value.hint


def test_sound_that_portaudio_lost_is_told_and_marked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The callback never looked at the status: it was spliced without a word."""

    class Stream:
        def __init__(self, callback: Any, blocksize: int, **_: Any) -> None:
            self.callback, self.block = callback, bytes(2 * blocksize)

        def __enter__(self) -> None:
            for number in range(live.MAX_BLOCKS + 3):
                status = types.SimpleNamespace(input_overflow=number in (1, 2))
                self.callback(self.block, live.BLOCK, None, status)

        def __exit__(self, *_: object) -> None:
            pass

    module = types.SimpleNamespace(RawInputStream=Stream, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    with live.microphone() as blocks:
        sizes = [len(next(blocks)) for _ in range(5)]
    assert sizes == [live.BLOCK, 0, live.BLOCK, 0, live.BLOCK]
    assert capsys.readouterr().err.splitlines() == [
        "0.5 s of sound were lost: too slow here",
        "PortAudio lost sound 2 times (input overflow), nobody knows how much",
    ]


def test_listening_needs_a_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "sounddevice":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(KwsError, match="sounddevice") as caught, live.microphone():
        pass
    assert "[listen]" in caught.value.hint
