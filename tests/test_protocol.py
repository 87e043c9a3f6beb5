"""The lines between a board and this machine: frames, gaps, commands."""

from __future__ import annotations

import dataclasses
import random
import shlex
from pathlib import Path

import pytest
from fake_model import LABELS, FakeModel, tone
from toolbox import need_compiler, need_qemu

from kws.deploy import boards, build, command, frame, monitor, run
from kws.errors import KwsError

FAKE = FakeModel()
EVENT = "kws event word=yes start_ms=0 time_ms=1000 score=0.930"


def lines(*texts: str, start: int = 0) -> list[str]:
    return [frame.framed(text, start + i) for i, text in enumerate(texts)]


def follow(text: str) -> list[dict[str, object]]:
    return monitor.Monitor(float).feed(text.encode("latin-1", "replace"))


# --- reading --------------------------------------------------------------------------


def test_a_broken_line_is_dropped_with_a_word_and_a_gap_is_told() -> None:
    sent = lines("kws selftest ok", EVENT, EVENT, EVENT, "kws end")
    sent[1] = sent[1].replace("0.930", "0.990")  # what nothing else could tell
    del sent[3]
    messages = follow("\n".join(sent) + "\n")
    kinds = [message["kind"] for message in messages]
    assert kinds == ["selftest", "broken", "gap", "event", "gap", "end"]
    assert [m["lines"] for m in messages if m["kind"] == "gap"] == [1, 1]
    assert "dropped" in monitor.text(messages[1])
    assert "missing" in monitor.text(messages[2])
    read = monitor.parse("\n".join(sent))
    assert (len(read.events), read.broken, read.missing) == (1, 1, 2)


def test_no_single_damage_passes() -> None:
    """Each bit of a line, and each byte lost; the frame's own too."""
    before, line = lines("kws selftest ok", EVENT)
    raw = line.encode()
    damaged = [
        raw[:i] + bytes([raw[i] ^ 1 << bit]) + raw[i + 1 :]
        for i in range(len(raw))
        for bit in range(7)
    ]
    damaged += [raw[:i] + raw[i + 1 :] for i in range(len(raw))]
    for data in damaged:
        following = monitor.Monitor(float)
        following.feed(before.encode() + b"\n")
        heard = following.feed(data + b"\n")
        assert not [m for m in heard if m["kind"] == "event"], data


def test_the_count_goes_round_and_starts_again() -> None:
    frames = frame.Frames()
    for sequence, missing in ((9998, 0), (9999, 0), (0, 0), (2, 1), (1, 1)):
        assert frames.take(frame.framed("kws end", sequence)) == ("kws end", missing)


@pytest.mark.parametrize("first", ["kws boot name=a", "kws clock crystal=none"])
def test_a_board_that_starts_again_has_lost_nothing(first: str) -> None:
    """However long it has run: 6,000 lines are 100 minutes of beats."""
    for last in (1, 6000, 9999):
        frames = frame.Frames()
        frames.take(frame.framed("kws end", last))
        assert frames.take(frame.framed(first, 0)) == (first, 0)
    boot = "kws boot name=x hash=0 schema=1"
    assert frames.take(frame.framed(boot, 0)) == (boot, 0)


def test_an_older_firmware_is_read_as_ever() -> None:
    text = f"kws selftest ok\n{EVENT}\nhello\n"
    assert [m["kind"] for m in follow(text)] == ["selftest", "event", "other"]
    # What a framed board says without a frame is broken; foreign text is foreign text.
    first = frame.framed("kws selftest ok", 0)
    kinds = [m["kind"] for m in follow(f"{first}\n{EVENT}\nhello\n")]
    assert kinds == ["selftest", "broken", "other"]


def test_noise_costs_nothing() -> None:
    rng = random.Random(4)
    text = "\n".join(lines("kws selftest ok", EVENT, "kws end"))
    following = monitor.Monitor(float)
    for _ in range(3000):
        data = bytearray(text.encode())
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            for message in following.feed(bytes(data) + b"\n"):
                assert str(monitor.text(message)).isprintable()
        except monitor.BoardError as error:  # `kws error`, by chance
            assert error.key


# --- the same C -----------------------------------------------------------------------


def emulated(
    folder: Path, told: list[str], model: FakeModel = FAKE, name: str = "qemu-m4"
) -> monitor.Transcript:
    need_compiler()
    need_qemu()
    board = boards.load(name)
    image = build.build(model.write(folder / "model"), board, folder)
    sent = [command.line(text, i, LABELS) for i, text in enumerate(told)]
    return run.listen(
        image.elf, board, tone(300, 40000), FAKE.hash, commands=sent
    ).transcript


@pytest.mark.parametrize("name", ["qemu-m0", "qemu-m4", "qemu-m55"])
def test_every_line_of_a_board_is_framed(name: str, tmp_path: Path) -> None:
    said = emulated(tmp_path, ["query"], name=name)
    assert (said.broken, said.missing, said.other) == (0, 0, [])
    assert said.ended
    assert said.boot["board"] == name
    assert said.boot["reset"] == "power"
    assert [reply["to"] for reply in said.replies] == ["0"]


def test_commands_do_what_they_say(tmp_path: Path) -> None:
    word, other = LABELS[2:]
    told = [
        "verbosity level=2",
        f"threshold word={word} value=0.999",
        "query",
        f"threshold {shlex.quote(f'word={other}')} value=0.001",  # below its rearm
        "gain value=3",
    ]
    assert emulated(tmp_path / "a", []).events  # heard, where nothing is told
    said = emulated(tmp_path / "b", told)
    status = [reply["status"] for reply in said.replies]
    assert status == ["ok", "ok", "ok", "range", "absent"]
    assert said.state["verbosity"] == "2"
    assert said.state["build"] == said.boot["build"]
    assert said.thresholds == {word: 0.999, other: 0.8}
    assert len(said.decisions) == said.stats["inferences"]
    quiet = emulated(tmp_path / "c", ["verbosity level=0"])
    assert quiet.beats == [] and quiet.events and quiet.ended


def test_who_sends_without_a_pause_costs_no_audio(tmp_path: Path) -> None:
    said = emulated(tmp_path, ["query"] * 8000)
    assert said.stats["overruns"] == 0 and said.ended
    assert len(said.replies) > 300  # a part of them, in two seconds and a half


def test_the_selftest_command_starts_again(tmp_path: Path) -> None:
    need_compiler()
    need_qemu()
    said = emulated(tmp_path, ["selftest"])
    assert said.boots == 2
    assert said.boot["reset"] == "software"
    assert said.selftest is True and said.ended


# --- sending --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "reboot",
        "query now=1",
        "threshold word=yes",
        "threshold word=nobody value=0.5",
        "threshold word=low value=1.5",
        "threshold word=low value=nan",
        "threshold word=_silence_ value=0.5",  # no word
        "gain value=1 value=2",
        "verbosity level=many",
        "gain value='",
    ],
)
def test_what_is_no_command_is_refused_before_it_is_sent(text: str) -> None:
    with pytest.raises(KwsError, match="No such command for a board") as caught:
        command.line(text, 0, LABELS)
    assert "query" in caught.value.message


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("threshold word=low value=0.8537", "threshold word=low value=0.854"),
        ("threshold word=low value=0.9996", "threshold word=low value=0.999"),
        ("threshold word=low value=1e-9", "threshold word=low value=0.411"),
        ("threshold word=low value=0.41", "threshold word=low value=0.411"),
        ("verbosity level=9", "verbosity level=2"),
        ("gain value=0", "gain value=1"),
        ("gain value=-1", "gain value=1"),
        ("gain value=101", "gain value=100"),
    ],
)
def test_what_a_board_would_round_or_refuse_is_refused_here(
    text: str, better: str
) -> None:
    """Each with what works: the board answers the nearest with ok."""
    rearm = 0.4105
    with pytest.raises(KwsError, match="The board k.*Received: '") as caught:
        command.line(text, 0, LABELS, rearm)
    assert caught.value.hint == f"kws monitor ... --send {shlex.quote(better)}"
    assert command.line(better, 0, LABELS, rearm).startswith(f"kws {better[:4]}")


def test_the_lowest_threshold_is_that_of_the_board(tmp_path: Path) -> None:
    """What is refused here is what the board answers by `range`, to a thousandth."""
    word = LABELS[2]
    detector = dataclasses.replace(FAKE.detector, rearm=0.4105)
    model = dataclasses.replace(FAKE, detector=detector)
    told = [f"threshold word={word} value={value}" for value in ("0.41", "0.411")]
    said = emulated(tmp_path, told, model)
    assert [reply["status"] for reply in said.replies] == ["range", "ok"]
