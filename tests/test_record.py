"""`kws data record`: what is kept of a recording, who may send one, and the page, in a
real browser."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as browsers
import click
import numpy as np
import pytest
import soundfile
import toolbox
from browser import Browser

from kws import data
from kws.cli import cli
from kws.data import audio, record
from kws.data.record import Session, prompts
from kws.data.verify import verify
from kws.deploy import live, page_server
from kws.deploy import record as serving
from kws.deploy.record import Recorder
from kws.emit import web as emitted
from kws.errors import KwsError
from kws.recipe import Task

RATE = 48000
KIND = "application/octet-stream"
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from kws.cli import main; sys.argv[0] = 'kws'; main()",
]


def sound(
    *bursts: tuple[float, float],
    level: float = 0.1,
    seconds: float = 2.0,
    noise: float = 3e-4,
    hertz: float = 700,
    rate: int = RATE,
    seed: int = 0,
) -> np.ndarray:
    """Tones in faint noise, as a microphone gives them: int16 [seconds * rate].

    Args:
        bursts: (start, length) of each, in seconds.
    """
    time_s = np.arange(int(seconds * rate)) / rate
    whole = noise * np.random.default_rng(seed).standard_normal(len(time_s))
    for start, length in bursts:
        inside = (time_s >= start) & (time_s < start + length)
        whole += inside * level * np.sin(2 * np.pi * hertz * time_s)
    return np.clip(np.rint(whole * 32768), -32768, 32767).astype(np.int16)


WORD = sound((0.7, 0.4))


def session(folder: Path, *words: str, **options: Any) -> tuple[Session, str]:
    options = {"others": ("no",), "room_s": 10, **options}
    made = Session(folder / "mine", prompts(words or ("go",), **options))
    return made, made.join("Anna", hidden=False)


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- What is kept ----


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 96000])
def test_a_recording_becomes_a_clip_of_a_second_with_its_word_in_the_middle(
    tmp_path: Path, rate: int
) -> None:
    made, anna = session(tmp_path)
    verdict = made.add(anna, 0, sound((1.2, 0.4), rate=rate), rate)
    assert verdict.problem == "" and verdict.done == 1
    assert verdict.name == "go/Anna_nohash_0.wav"
    assert -24 < verdict.level_db < -22  # of a sine of 0.1
    assert re.fullmatch(r"(M\d+ \d+V\d+)+", verdict.wave)
    read = audio.read(tmp_path / "mine" / verdict.name, convert=False)
    assert len(read.pcm) == 16000 and read.source == ""
    energy = np.cumsum(read.pcm.astype(float) ** 2)
    assert abs(np.searchsorted(energy, energy[-1] / 2) - 8000) < 400
    tone = np.abs(np.fft.rfft(read.pcm))
    assert abs(np.argmax(tone) - 700) < 3
    assert made.clip(verdict.clip) == (tmp_path / "mine" / verdict.name).read_bytes()


def test_a_words_folder_is_no_place_to_record_into(tmp_path: Path) -> None:
    made, anna = session(tmp_path)
    made.add(anna, 0, WORD, RATE)
    with pytest.raises(KwsError, match="holds clips itself") as told:
        Session(tmp_path / "mine" / "go", prompts(["go"], others=()))
    assert shlex.split(told.value.hint)[-1] == str(tmp_path / "mine")


def test_words_that_take_longer_have_longer_clips(tmp_path: Path) -> None:
    asked = prompts(["go"], others=(), room_s=0, clip_seconds=2)
    made = Session(tmp_path / "mine", asked, clip_seconds=2)
    anna = made.join("Anna", hidden=False)
    long = sound((0.6, 1.7), seconds=3)
    assert asked[0].seconds == 3 and made.add(anna, 0, long, RATE).problem == ""
    assert len(audio.read(tmp_path / "mine" / "go" / "Anna_nohash_0.wav").pcm) == 32000
    assert verify(tmp_path / "mine", clip_seconds=2)[1] == []


@pytest.mark.parametrize(
    ("pcm", "says"),
    [
        (sound((0.7, 0.4), level=0.002, noise=2e-5), "too quiet"),
        (sound((0.7, 0.4), level=0.004, noise=1e-4), "too quiet"),
        (sound((0.7, 0.4), level=1.4), "clipped"),
        (np.zeros(2 * RATE, np.int16), "hears nothing"),
        (sound(noise=5e-3), "nothing like a word"),
        (sound((0.3, 0.3), (1.2, 0.3)), "2 sounds with a pause"),
        (sound((0.2, 1.5)), "1.5 s of sound without a pause"),
        (sound((0.0, 0.4)), "cut off at its beginning"),
        (sound((1.7, 0.4)), "cut off at its end"),
        (sound((0.7, 0.03)), "nothing like a word"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_good_is_not_kept_and_says_why(
    tmp_path: Path, pcm: np.ndarray, says: str
) -> None:
    made, anna = session(tmp_path)
    verdict = made.add(anna, 0, pcm, RATE)
    assert says in verdict.problem and verdict.advice
    assert (verdict.clip, verdict.name, verdict.done) == (-1, "", 0)
    assert not (tmp_path / "mine").exists()
    # The next one is kept all the same.
    assert made.add(anna, 0, WORD, RATE).problem == ""


def test_the_room_is_kept_as_it_is_and_may_be_still(tmp_path: Path) -> None:
    made, anna = session(tmp_path)
    places = [n for n, prompt in enumerate(made.asked) if prompt.kind == record.ROOM]
    assert (
        "nothing" in made.add(anna, places[0], np.zeros(480000, np.int16), RATE).problem
    )
    faint = sound(seconds=10, noise=1e-4)
    for place in places:
        assert made.add(anna, place, faint + np.int16(place), RATE).problem == ""
    names = [f"_background_noise_/Anna_{room}_0.wav" for room in ("quiet", "lively")]
    assert list(tree(tmp_path / "mine")) == sorted(names)
    pcm = audio.read(tmp_path / "mine" / names[0]).pcm
    assert len(pcm) == 160000 and abs(pcm).max() < 32
    assert made.done(anna)[-2:] == [1, 1]


def test_what_was_recorded_passes_verify_and_is_words_unknown_and_silence(
    tmp_path: Path,
) -> None:
    made, anna = session(tmp_path, "Hey Robot", "go", others=["robot", "hey go"])
    for place, prompt in enumerate(made.asked):
        for take in range(1 if prompt.kind == record.ROOM else 5):
            pcm = sound((0.7, 0.4), hertz=400 + 90 * place + 9 * take, seed=take)
            if prompt.kind == record.ROOM:
                pcm = sound(seconds=10, seed=place)
            assert made.add(anna, place, pcm, RATE).problem == ""
    checked, faults = verify(tmp_path / "mine")
    assert checked == 22 and faults == []
    words = ("hey robot", "go")
    task = Task("custom", words, unknown_percent=160)
    for split, each in (("train", 3), ("val", 1), ("test", 1)):
        clips = data.load(split, task, tmp_path / "mine")
        silence, *others = np.bincount(clips.label, minlength=4)
        assert others == [2 * each] * 1 + [each, each] and silence == round(0.2 * each)


def test_nothing_is_overwritten_and_an_interrupted_recording_goes_on(
    tmp_path: Path,
) -> None:
    made, anna = session(tmp_path, "hey robot")
    own = tmp_path / "mine" / "Hey-Robot" / "Anna_nohash_7.wav"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a file of mine")
    (own.parent / "Anna_nohash_8.txt").write_text("and notes")
    assert made.done(anna) == [1, 0, 0, 0]
    assert made.add(anna, 0, sound((0.7, 0.4), seconds=2.5), RATE).name == (
        "Hey-Robot/Anna_nohash_8.wav"
    )
    # Another process was quicker with the next number.
    numbers = made._numbers
    made._numbers = lambda *_: [n for n in numbers(*_) if n < 8]  # type: ignore
    assert made.add(anna, 0, sound((0.8, 0.4), seconds=2.5), RATE).name == (
        "Hey-Robot/Anna_nohash_9.wav"
    )
    assert own.read_bytes() == b"a file of mine"
    again, _ = session(tmp_path, "hey robot")
    assert again.speakers() == ["Anna"] and again.done("Anna")[0] == 3
    # Deleted can be what this session made, and nothing else.
    for clip in (0, -1, 99):
        with pytest.raises(KwsError, match="no such clip"):
            again.remove(clip)
    kept = again.add("Anna", 0, sound((0.9, 0.4), seconds=2.5), RATE)
    before = tree(tmp_path / "mine")
    assert kept.name == "Hey-Robot/Anna_nohash_10.wav"
    assert again.remove(kept.clip)[0] == 3
    del before[kept.name]
    assert tree(tmp_path / "mine") == before
    with pytest.raises(KwsError, match="no such clip"):
        again.remove(kept.clip)


def test_a_recording_that_is_sent_twice_is_one(tmp_path: Path) -> None:
    made, anna = session(tmp_path)
    first, second = (made.add(anna, 0, WORD, RATE) for _ in range(2))
    assert first == second and first.done == 1
    made.remove(first.clip)
    assert made.add(anna, 0, WORD, RATE).done == 1  # and can be made again


def test_who_speaks_is_a_chosen_name_or_a_hash(tmp_path: Path) -> None:
    made, _ = session(tmp_path)
    hidden = made.join("  Zoë ", hidden=True)
    assert re.fullmatch("[0-9a-f]{8}", hidden)
    assert made.join("zoe\u0308", hidden=True) == hidden  # however it is typed
    assert made.join("../../Zoë_B 1", hidden=False) == "Zoë-B-1"
    drawn = {made.join("", hidden=True) for _ in range(3)}
    assert len(drawn) == 3 and all(re.fullmatch("[0-9a-f]{8}", d) for d in drawn)
    made.add(hidden, 0, WORD, RATE)
    for path in (tmp_path / "mine").rglob("*"):
        assert "zoe" not in path.name.lower() and "zoë" not in path.name.lower()
    with pytest.raises(KwsError, match="40 letters"):
        made.join("x" * 41, hidden=True)


def test_a_name_in_another_spelling_is_the_same_speaker(tmp_path: Path) -> None:
    """Anna was trained on, and anna was validation's."""
    made, anna = session(tmp_path)
    assert made.join("anna", hidden=False) == made.join(" ANNA", hidden=False) == anna
    made.add(anna, 0, WORD, RATE)
    again = Session(made.out, made.asked)
    assert again.join("anna", hidden=False) == anna == "Anna"
    assert again.join("Anna B", hidden=False) == again.join("anna-b", hidden=False)
    assert again.join("Ann", hidden=False) == "Ann"
    for name in ("!!!", "_"):  # both were somebody
        with pytest.raises(KwsError, match="a letter or a digit") as caught:
            again.join(name, hidden=False)
        assert repr(name) in caught.value.message and "anna" in caught.value.hint
    assert again.join("7", hidden=False) == "7"


@pytest.mark.parametrize("word", ["../x", "/etc", "a/b", "..", "_unknown_", "a\0b", ""])
def test_a_word_is_a_folder_s_name_and_no_way_out(tmp_path: Path, word: str) -> None:
    with pytest.raises(KwsError, match="A word may have"):
        prompts([word])
    with pytest.raises(KwsError, match="A word may have"):
        prompts(["go"], others=[word])


def test_a_corpus_that_a_command_made_is_left_alone(tmp_path: Path) -> None:
    for name in ("import.json", "corpus.json", "train/index.tsv"):
        file = tmp_path / name.split(".")[0] / name
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        with pytest.raises(KwsError, match="something else") as caught:
            Session(tmp_path / name.split(".")[0], prompts(["go"]))
        assert "--also" in caught.value.hint
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bundle.json").write_text("{}")
    with pytest.raises(KwsError, match="is a run") as caught:
        Session(tmp_path / "run", prompts(["go"]))
    assert caught.value.hint.endswith(f"--out {tmp_path / 'run-recorded'}")


def test_words_take_turns_and_the_others_come_between(tmp_path: Path) -> None:
    made, anna = session(
        tmp_path, "go", "stop", wanted=8, others=["no", "so"], others_wanted=2
    )
    order: list[str] = []
    done = [0] * len(made.asked)
    made.done = lambda _: done  # type: ignore[method-assign]
    place = -1
    while (following := made.following(anna, place)) is not None:
        place = following
        done[place] += 1
        order.append(made.asked[place].text)
    turns = ["go"] * 5 + ["stop"] * 5 + ["no"] * 2 + ["quiet"]
    turns += ["go"] * 3 + ["stop"] * 3 + ["so"] * 2 + ["lively"]
    assert sorted(order) == sorted(turns) and order[:13] == turns[:13]
    done[0] = 0
    assert made.following(anna, 1, {0}) is None


# ---- Who may send, and what ----


class Line:
    """Requests to a recorder's page, as anybody could make them."""

    def __init__(self, server: Recorder, tls: ssl.SSLContext | None = None) -> None:
        self.server, self.tls = server, tls

    def asked(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        kind = http.client.HTTPConnection
        more: dict[str, Any] = {"timeout": 30}
        if self.tls:
            kind, more["context"] = http.client.HTTPSConnection, self.tls
        connection = kind(self.server.host, **more)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers

    def sent(
        self, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        kind = KIND if path.startswith("take") else "application/json"
        headers = {"Content-Type": kind, **headers}
        there = f"/{self.server.token}/{path}"
        status, said, _ = self.asked("POST", there, body, **headers)
        return status, json.loads(said) if said[:1] == b"{" else {}


@contextlib.contextmanager
def serving_line(folder: Path) -> Iterator[tuple[Line, Session]]:
    made, _ = session(folder)
    server = Recorder(made)
    with server.serving():
        yield Line(server), made


def test_a_recording_is_taken_from_the_page_alone(tmp_path: Path) -> None:
    with serving_line(tmp_path) as (line, made):
        token = line.server.token
        status, body, headers = line.asked("GET", f"/{token}/")
        assert status == 200 and b"Content-Security-Policy" in body
        assert headers["X-Frame-Options"] == "DENY"
        take = "take?speaker=Anna&prompt=0&rate=48000"
        for path in (
            "/",
            f"/{token}",
            f"/{token[:-1]}x/",
            f"/{token}/take",
            "/clip?clip=0",
        ):
            assert line.asked("GET", path)[0] == 404
        assert line.asked("GET", f"/{token}/", Host="rebound.example")[0] == 404
        post = {"Content-Type": KIND}
        assert (
            line.asked("POST", f"/{token[:-1]}x/{take}", WORD.tobytes(), **post)[0]
            == 404
        )
        for wrong in (
            {"Origin": "http://other.example"},
            {"Origin": "null"},
            {"Host": "rebound.example"},
            {"Content-Type": "text/plain"},
            {"Content-Type": "audio/wav"},
        ):
            assert line.sent(take, WORD.tobytes(), **wrong)[0] == 404
        assert not (tmp_path / "mine").exists()
        origin = f"http://{line.server.host}"
        status, table = line.sent(take, WORD.tobytes(), Origin=origin)
        assert status == 200 and table["name"] == "go/Anna_nohash_0.wav"
        status, clip, headers = line.asked("GET", f"/{token}/clip?clip=0")
        assert status == 200 and headers["Content-Type"] == "audio/wav"
        assert clip == (tmp_path / "mine" / table["name"]).read_bytes()


@pytest.mark.parametrize(
    "length", [serving.MAX_BODY + 1, 10**18, "-1", "1e3", "0x10", ""]
)
def test_what_is_too_large_is_not_read(tmp_path: Path, length: object) -> None:
    with serving_line(tmp_path) as (line, _):
        there = f"/{line.server.token}/take?speaker=Anna&prompt=0&rate=48000"
        host, port = line.server.host.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as plug:
            plug.sendall(
                f"POST {there} HTTP/1.0\r\nHost: {line.server.host}\r\nContent-Type: "
                f"{KIND}\r\nContent-Length: {length}\r\n\r\n".encode()
            )
            said = plug.recv(100)
        assert b" 413 " in said
        assert line.sent("speaker?name=x", b" " * 5000)[0] == 413
    assert not (tmp_path / "mine").exists()


def test_an_upload_that_breaks_off_is_no_recording(tmp_path: Path) -> None:
    with serving_line(tmp_path) as (line, _):
        there = f"/{line.server.token}/take?speaker=Anna&prompt=0&rate=48000"
        host, port = line.server.host.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as plug:
            plug.sendall(
                f"POST {there} HTTP/1.0\r\nHost: {line.server.host}\r\nContent-Type: "
                f"{KIND}\r\nContent-Length: {WORD.nbytes + 2}\r\n\r\n".encode()
                + WORD.tobytes()
            )
            plug.shutdown(socket.SHUT_WR)
            assert b" 400 " in plug.recv(100)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("speaker=Anna&prompt=0&rate=48000", b""),
        ("speaker=Anna&prompt=0&rate=48000", WORD.tobytes()[: RATE * 2]),
        ("speaker=Anna&prompt=0&rate=48000", b"x"),
        ("speaker=Anna&prompt=9&rate=48000", WORD.tobytes()),
        ("speaker=Anna&prompt=-1&rate=48000", WORD.tobytes()),
        ("speaker=Anna&prompt=0e0&rate=48000", WORD.tobytes()),
        ("speaker=Anna&prompt=0&rate=1", WORD.tobytes()),
        ("speaker=Anna&prompt=0&rate=1000000000", WORD.tobytes()),
        ("speaker=..%2F..%2Fx&prompt=0&rate=48000", WORD.tobytes()),
        ("speaker=&prompt=0&rate=48000", WORD.tobytes()),
        ("", WORD.tobytes()),
    ],
)
def test_what_no_page_sends_is_refused(tmp_path: Path, query: str, body: bytes) -> None:
    with serving_line(tmp_path) as (line, _):
        status, table = line.sent(f"take?{query}", body)
        assert status == 409 and "expected" in table["error"] and table["hint"]
        many = "&".join(f"a{n}=1" for n in range(20))
        assert line.sent(f"take?{many}", body)[0] == 404
        for clip in ("0", "..%2Fx", "-1", "9" * 30):
            assert line.sent(f"remove?clip={clip}")[0] == 409
            there = f"/{line.server.token}/clip?clip={clip}"
            assert line.asked("GET", there)[0] == 404
    assert list(tmp_path.iterdir()) == []


def test_noise_in_place_of_sound_breaks_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with serving_line(tmp_path) as (line, _):
        for rate in (8000, 48000, 192000):
            body = rng.integers(0, 256, rng.integers(3 * rate, 5 * rate), np.uint8)
            status, table = line.sent(
                f"take?speaker=Anna&prompt=0&rate={rate}", body.tobytes()
            )
            assert status == 200 and table["problem"]


def test_a_full_disk_is_said_and_leaves_no_half_clip(tmp_path: Path) -> None:
    with serving_line(tmp_path) as (line, _):
        take = "take?speaker=Anna&prompt=0&rate=48000"
        with toolbox.full_disk(1000):
            status, table = line.sent(take, WORD.tobytes())
        assert status == 409 and "can't be written" in table["error"]
        assert list((tmp_path / "mine").rglob("*.wav")) == []
        assert line.sent(take, WORD.tobytes())[1]["done"] == 1


# ---- A phone ----


@pytest.fixture
def need_openssl() -> None:
    if shutil.which("openssl") is None:
        toolbox.skip_or_fail("openssl is not installed")


@pytest.mark.usefixtures("need_openssl")
def test_a_phone_is_served_over_https_under_a_token(tmp_path: Path) -> None:
    made, _ = session(tmp_path)
    server = Recorder(made, phone="127.0.0.1")
    assert re.fullmatch(r"https://127\.0\.0\.1:\d+/[a-z2-9]{10}/", server.address)
    host, port = server.host.split(":")
    with server.serving():
        der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))
        assert hashlib.sha256(der).hexdigest().upper() == server.fingerprint.replace(
            ":", ""
        )
        trusting = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(der))
        line = Line(server, trusting)  # its name is the address that is connected to
        assert line.asked("GET", f"/{server.token}/")[0] == 200
        assert line.asked("GET", "/aaaaaaaaaa/")[0] == 404
        take = "take?speaker=Anna&prompt=0&rate=48000"
        plain = {"Origin": f"http://{server.host}"}
        assert line.sent(take, WORD.tobytes(), **plain)[0] == 404
        # Who connects and says nothing, or speaks plainly, keeps nobody out.
        with socket.create_connection((host, int(port)), timeout=30) as silent:
            secure = {"Origin": f"https://{server.host}"}
            assert line.sent(take, WORD.tobytes(), **secure)[0] == 200
            silent.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"Not here" not in silent.recv(100)
    said = serving.invitation(server)
    assert server.address in said and server.fingerprint[:48] in said


@pytest.mark.usefixtures("need_openssl")
def test_the_key_is_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    one, two = (serving.certificate("192.168.1.5")[1] for _ in range(2))
    assert one != two and list(tmp_path.iterdir()) == []
    with pytest.raises(KwsError, match="no certificate"):
        serving.certificate("not an address")


def test_without_openssl_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KwsError, match="openssl") as caught:
        serving.certificate("127.0.0.1")
    assert "apt-get install openssl" in caught.value.hint


def test_an_address_is_one_of_this_machine() -> None:
    with pytest.raises(KwsError, match="Not an IPv4 address"):
        serving.network_address("phone.example")
    with contextlib.suppress(KwsError):  # a machine without a network
        assert re.fullmatch(r"[\d.]+", serving.network_address())
    made = Session(Path("mine"), prompts(["go"]))
    with pytest.raises(KwsError, match="can't be used"):
        Recorder(made, phone="198.51.100.77")


def test_the_address_is_shown_as_a_code(tmp_path: Path) -> None:
    pytest.importorskip("segno")
    made, _ = session(tmp_path)
    with contextlib.ExitStack() as end:
        server = Recorder(made)
        end.enter_context(server.serving())
        server.fingerprint = "AB:" * 32
        assert "\u2580" in serving.invitation(server)


# ---- The page ----

# The microphone alone is made up: what it gives is sound, a faint noise, and when the
# page says that one should speak, the next one of some sounds.
MICROPHONE = """
    const [sounds, rate] = arguments;
    const decoded = sounds.map((text) => {
      const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      return Float32Array.from(new Int16Array(bytes.buffer), (v) => v / 32768);
    });
    navigator.mediaDevices.getUserMedia = async () => {
      const context = new AudioContext();
      await context.resume();
      const out = context.createMediaStreamDestination();
      const play = (samples, loop) => {
        const buffer = context.createBuffer(1, samples.length, rate);
        buffer.copyToChannel(samples, 0);
        const source = context.createBufferSource();
        Object.assign(source, { buffer, loop });
        source.connect(out);
        source.start();
      };
      const room = () => 4e-4 * (Math.random() - 0.5);
      play(Float32Array.from({ length: rate }, room), true);
      let on = false;
      new MutationObserver(() => {
        const now = document.getElementById("stage").classList.contains("on");
        if (now && !on && decoded.length) play(decoded.shift(), false);
        on = now;
      }).observe(document.getElementById("stage"), { attributes: true });
      return out.stream;
    };
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    # A word, again and again, as from somebody who does not look at the page.
    spoken = np.concatenate([sound((0.8, 0.4), seed=n, hertz=500) for n in range(40)])
    soundfile.write(folder / "microphone.wav", spoken, RATE)
    with browsers.opened(folder, folder / "microphone.wav") as opened:
        yield opened


class Page:
    """The recorder's page in a browser.

    Args:
        browser: The browser.
        folder: Gets the corpus.
        phone: As of `Recorder`.
        options: Of `session`.
    """

    def __init__(
        self,
        browser: Browser,
        folder: Path,
        phone: str | None = None,
        **options: Any,
    ) -> None:
        self.browser = browser
        words = options.pop("words", ("go",))
        options = {"wanted": 3, "others_wanted": 1, "room_s": 0, **options}
        self.session = Session(
            folder / "mine", prompts(words, others=("no",), **options)
        )
        self.out = folder / "mine"
        self.server = Recorder(
            self.session, then=lambda: "kws data info mine", phone=phone
        )

    def open(self, *sounds: np.ndarray, width: int = 1280, **media: str) -> None:
        self.browser.open(self.server.address, width, **media)
        if sounds:
            texts = [base64.b64encode(pcm.tobytes()).decode() for pcm in sounds]
            self.browser.run(MICROPHONE, texts, RATE)

    def start(self, name: str = "Anna", auto: bool = False) -> None:
        self.browser.part("name").send_keys(name)
        self.browser.part("start").click()
        self.browser.wait_for("record", lambda text: text == "Record")
        if not auto:
            self.browser.part("auto").click()

    def take(self) -> str:
        """Record once; what the page says of it."""
        self.browser.part("record").click()
        self.browser.wait_for("record", lambda text: text == "Pause")
        self.browser.wait_for("record", lambda text: text == "Record")
        return self.browser.text("state")

    def names(self) -> list[str]:
        return list(tree(self.out)) if self.out.is_dir() else []


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    made = Page(browser, tmp_path)
    with made.server.serving():
        yield made


def test_the_real_microphone_is_recorded_until_all_is_there(page: Page) -> None:
    browser = page.browser
    page.open()
    page.start(auto=True)
    assert browser.text("prompt") == "go" and browser.text("count") == "1 of 3"
    end = time.monotonic() + 120
    while browser.text("prompt") != "All is recorded":
        assert time.monotonic() < end, browser.text("state")
        if browser.text("record") == "Record":  # three in a row were cut off
            browser.part("record").click()
        time.sleep(0.2)
    who = hashlib.sha256(b"anna").hexdigest()[:8]
    expected = [f"go/{who}_nohash_{n}.wav" for n in range(3)] + [
        f"no/{who}_nohash_0.wav"
    ]
    assert page.names() == expected
    assert verify(page.out)[1] == []
    for name in expected:
        pcm = audio.read(page.out / name).pcm
        assert abs(np.argmax(np.abs(np.fft.rfft(pcm))) - 500) < 5
    assert browser.text("all") == "4 of 4" and browser.text("kept-count") == "4"
    assert not browser.part("record").is_enabled()
    assert browser.complaints() == []
    browser.part("finish").click()
    browser.wait_for("end-title", lambda text: text == "Saved")
    assert "4 recordings are in" in browser.text("end-text")
    assert browser.text("next") == "kws data info mine"
    kinds = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    browser.command("Browser.grantPermissions", permissions=kinds)
    browser.part("copy").click()
    browser.wait_for("copied", lambda text: text == "Copied.")
    copied = browser.run("return navigator.clipboard.readText()")
    assert copied == browser.text("next")
    assert page.server.finished.is_set()


def burst(hertz: float = 700, level: float = 0.1) -> np.ndarray:
    """A word of the made-up microphone's."""
    return sound((0.5, 0.4), seconds=1.0, noise=0, hertz=hertz, level=level)


def pitch(clip: Path) -> int:
    """The loudest frequency of a clip, Hz."""
    pcm = audio.read(clip).pcm
    return round(float(np.argmax(np.abs(np.fft.rfft(pcm))) * 16000 / len(pcm)))


WHO = hashlib.sha256(b"anna").hexdigest()[:8]


def test_too_quiet_and_too_loud_are_told_and_what_is_kept_can_be_redone(
    page: Page,
) -> None:
    browser = page.browser
    page.open(burst(level=0.002), burst(level=1.5), burst(600), burst(800), burst(1000))
    page.start()
    assert "too quiet" in page.take() and "Come nearer" in browser.text("state")
    assert browser.part("stage").get_attribute("class") == "stage bad"
    assert "clipped" in page.take() and "Go further away" in browser.text("state")
    assert not browser.part("redo").is_enabled() and page.names() == []
    assert page.take().startswith("Kept, -")
    assert browser.part("wave").is_displayed()
    assert browser.text("mark") == "Kept: go 0" and browser.text("count") == "2 of 3"
    clip = page.out / "go" / f"{WHO}_nohash_0.wav"
    assert page.names() == [f"go/{clip.name}"] and abs(pitch(clip) - 600) < 5
    browser.part("redo").click()
    browser.wait_for("record", lambda text: text == "Pause")
    browser.wait_for("record", lambda text: text == "Record")
    assert page.names() == [f"go/{clip.name}"] and abs(pitch(clip) - 800) < 5
    assert page.take().startswith("Kept")
    # Heard again, and deleted, from the list.
    rows = browser.driver.find_elements("css selector", "#clips li")
    assert [row.text for row in rows] == [
        "\u25b6\ufe0e go 1\n\u2715",
        "\u25b6\ufe0e go 0\n\u2715",
    ]
    rows[1].find_elements("css selector", "button")[0].click()
    browser.wait_for("state", lambda text: text == "Played.")
    rows[1].find_elements("css selector", "button")[1].click()
    browser.wait_for("state", lambda text: text == "Deleted.")
    assert page.names() == [f"go/{WHO}_nohash_1.wav"]
    assert abs(pitch(page.out / page.names()[0]) - 1000) < 5
    assert browser.text("kept-count") == "1" and browser.complaints() == []


def test_a_recording_goes_on_where_it_was_and_others_can_join(page: Page) -> None:
    browser = page.browser
    page.session.add(page.session.join("Ben", hidden=False), 0, WORD, RATE)
    kept = tree(page.out)
    page.open(burst(), burst(900))
    assert browser.text("known") == "Go on as Ben\nSomebody else"
    assert browser.text("example") == "go/Ben_nohash_0.wav"
    browser.part("start").click()
    browser.wait_for("record", lambda text: text == "Record")
    assert browser.text("count") == "2 of 3"
    browser.part("auto").click()
    assert page.take().startswith("Kept")
    assert page.names() == ["go/Ben_nohash_0.wav", "go/Ben_nohash_1.wav"]
    # What is not of this page isn't in its list, and stays.
    assert browser.text("kept-count") == "1"
    assert kept.items() <= tree(page.out).items()
    browser.part("skip").click()
    browser.wait_for("prompt", lambda text: text == "no")
    browser.driver.find_element("css selector", "[data-prompt='0']").click()
    assert browser.text("prompt") == "go"
    page.open()
    browser.driver.find_element("css selector", "[name='who'][value='']").click()
    page.start("Cleo")
    assert browser.text("count") == "1 of 3"


def test_the_room_is_recorded_and_its_seconds_are_counted(
    browser: Browser, tmp_path: Path
) -> None:
    made = Page(browser, tmp_path, room_s=10.0)
    with made.server.serving():
        made.open(np.zeros(RATE, np.int16))
        made.start()
        browser.driver.find_element("css selector", "[data-prompt='2']").click()
        assert browser.text("prompt") == "Silence"
        browser.part("record").click()
        browser.wait_for("mark", lambda text: bool(re.fullmatch(r"\d s", text)))
        browser.wait_for("record", lambda text: text == "Record")
    file = tmp_path / "mine" / "_background_noise_" / f"{WHO}_quiet_0.wav"
    assert len(audio.read(file).pcm) == 160000
    assert verify(tmp_path / "mine")[1] == []


@pytest.mark.usefixtures("need_openssl")
def test_a_phone_records_over_https(browser: Browser, tmp_path: Path) -> None:
    made = Page(browser, tmp_path, phone="127.0.0.1")
    with made.server.serving():
        made.open(burst(), width=390)
        assert browser.run("return [isSecureContext, location.protocol]") == [
            True,
            "https:",
        ]
        made.start()
        assert made.take().startswith("Kept")
    assert made.names() == [f"go/{WHO}_nohash_0.wav"]


def test_what_goes_wrong_underneath_is_said(browser: Browser, tmp_path: Path) -> None:
    made = Page(browser, tmp_path)
    with made.server.serving():
        made.open(burst())
        browser.run(
            "navigator.mediaDevices.getUserMedia = async () => {"
            "throw new DOMException('no', 'NotAllowedError'); }"
        )
        browser.part("start").click()
        browser.wait_for("problem", lambda text: "not allowed to use" in text)
        browser.run(MICROPHONE, [], RATE)
        made.start()
    assert "is kws data record still running?" in made.take()
    assert browser.part("record").is_enabled() and made.names() == []


def test_words_and_folders_are_text_whatever_they_hold(
    browser: Browser, tmp_path: Path
) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)></script>&amp;"
    made = Page(browser, folder, words=("l'été", "你好"))
    with made.server.serving():
        made.open()
        assert browser.text("out") == str(folder / "mine")
        assert browser.text("title") == "l'été, 你好"
        browser.part("name").send_keys("<b>&")
        browser.part("hidden").click()
        assert browser.text("example") == "l'été/-b-_nohash_0.wav"


SCHEMES = [("light", 320, 0.1), ("dark", 390, 0.002), ("light", 1280, 1.5)]


@pytest.mark.parametrize(("scheme", "width", "level"), SCHEMES)
def test_the_page_fits_and_can_be_read(
    browser: Browser, tmp_path: Path, scheme: str, width: int, level: float
) -> None:
    words = ("an unusually long phrase without an end", "go")
    made = Page(browser, tmp_path, words=words)

    def fits() -> None:
        wide, room = browser.run(
            "return [document.documentElement.scrollWidth, innerWidth]"
        )
        assert wide <= room == width, browser.run(
            "return [...document.querySelectorAll('*')].filter((e) =>"
            "e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML)"
            ".map((text) => text.slice(0, 80))"
        )
        assert browser.run(browsers.CONTRAST) == []

    with made.server.serving():
        media = {"prefers_color_scheme": scheme}
        if level > 1:
            media["prefers_reduced_motion"] = "reduce"
        made.open(burst(level=level), width=width, **media)
        browser.run(
            "for (const d of document.querySelectorAll('details')) d.open = true"
        )
        fits()
        made.start()
        fits()
        assert made.take().startswith("Kept" if level == 0.1 else "Not kept")
        fits()
        browser.part("finish").click()
        browser.wait_for("end-title", lambda text: text == "Saved")
        fits()


FOCUS = (
    "const f = document.activeElement;"
    "return [f === document.body ? '' : f.id || f.textContent,"
    "getComputedStyle(f).outlineStyle]"
)


def test_it_is_used_by_keyboard_and_read_by_a_screen_reader(page: Page) -> None:
    browser = page.browser
    page.open(burst())
    browser.part("name").send_keys("Anna\ue007")  # Enter
    browser.wait_for("record", lambda text: text == "Record")
    end = time.monotonic() + 60
    while (focused := browser.run(FOCUS)[0]) != "record":  # a moment after the text
        assert time.monotonic() < end, focused
        time.sleep(0.05)
    tree_nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    named: dict[str, list[str]] = {}
    for node in tree_nodes:
        if not node.get("ignored"):
            role = node.get("role", {}).get("value", "")
            named.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert named["region"] == ["go", "Progress", "Recorded now"]
    assert named["meter"] == ["Level"] and named["status"]
    assert named["checkbox"] == ["Go on by itself", "Count down with tones"]
    buttons = ["Record", "Play", "Redo", "Skip", "go 0 of 3", "no 0 of 1", "Finish"]
    assert sorted(named["button"]) == sorted(buttons)
    browser.part("auto").send_keys(" ")
    browser.part("tones").send_keys(" ")
    browser.part("record").send_keys(" ")
    browser.wait_for("kept-count", lambda text: text == "1")
    browser.wait_for("record", lambda text: text == "Record")
    reached = []
    for _ in range(20):
        browser.tab()
        name, outline = browser.run(FOCUS)
        assert outline == "solid" or not name, name
        reached.append(name)
    for name in ("record", "play", "redo", "skip", "auto", "tones", "finish"):
        assert name in reached
    labels = browser.run(
        "return [...document.querySelectorAll('#clips button')]"
        ".map((b) => b.getAttribute('aria-label'))"
    )
    assert labels == ["Play go 0", "Delete go 0"]


def test_the_page_s_parts_are_files_of_the_page_s_own_kind() -> None:
    script = (emitted.FOLDER / "record.js").read_text("utf-8")
    for forbidden in ("innerHTML", "eval(", "new Function", "document.write"):
        assert forbidden not in script
    for name in ("record.html", "record.css", "record.js"):
        text = (emitted.FOLDER / name).read_text("utf-8")
        text = text.replace("http://www.w3.org/2000/svg", "")
        for outside in ("http:", "https:", "@import", "url("):
            assert outside not in text


# ---- A terminal ----


def test_a_terminal_records_too(tmp_path: Path) -> None:
    made, anna = session(tmp_path, wanted=2, others_wanted=1, room_s=0)
    pcm = [sound((0.7, 0.4), rate=16000, seconds=3, hertz=h) for h in (500, 600, 700)]
    queue = [pcm[0], pcm[0] // 60, pcm[1], pcm[2]]

    @contextlib.contextmanager
    def microphone() -> Iterator[Iterator[np.ndarray]]:
        whole = queue.pop(0)
        yield iter(np.split(whole, range(1600, len(whole), 1600)))

    answers = iter(["p", "x", "", "", "p", "r", "", "s", ""])
    asked: list[str] = []
    said: list[str] = []
    played: list[np.ndarray] = []

    def ask(question: str) -> str:
        asked.append(question)
        return next(answers)

    serving.terminal(made, anna, microphone, ask, said.append, played.append)
    assert [text for text in said if "Not kept: too quiet" in text]
    assert (
        "  Nothing was kept yet." in said
        and "  go/Anna_nohash_0.wav is deleted." in said
    )
    assert [len(pcm) for pcm in played] == [16000] and not queue
    assert list(tree(tmp_path / "mine")) == [
        "go/Anna_nohash_0.wav",
        "no/Anna_nohash_0.wav",
    ]
    assert asked[0].startswith('Say "go" (1 of 2)') and "no" in asked[-1]


def test_a_terminal_keeps_nothing_with_a_gap_in_it(tmp_path: Path) -> None:
    made, anna = session(tmp_path, wanted=1, others=(), room_s=0)
    blocks = np.split(sound((0.7, 0.4), rate=16000, seconds=3), 30)
    none = blocks[0][:0]
    with_gaps = [[*blocks[:9], none, *blocks[9:]], [none, *blocks]]  # and at its start

    @contextlib.contextmanager
    def microphone() -> Iterator[Iterator[np.ndarray]]:
        yield iter(with_gaps.pop(0))

    said: list[str] = []
    serving.terminal(made, anna, microphone, lambda _: "", said.append, print)
    assert (
        not with_gaps and len([t for t in said if "Not kept: sound was lost" in t]) == 1
    )
    assert list(tree(tmp_path / "mine")) == ["go/Anna_nohash_0.wav"]


def test_a_terminal_needs_sounddevice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    made = Session(Path("mine"), prompts(["go"]))
    with pytest.raises(KwsError, match="sounddevice") as caught:
        serving.at_terminal(made, "", print)
    assert "[listen]" in caught.value.hint
    with pytest.raises(KwsError, match="sounddevice"), live.microphone():
        pass


# ---- The verb ----


def test_the_verb_serves_until_the_page_is_finished(tmp_path: Path) -> None:
    arguments = ["data", "record", "go", "stop", "--near", "no", "--out", "mine"]
    arguments += ["--takes", "4", "--near-takes", "4", "--room-seconds", "10"]
    command = [*COMMAND, *arguments, "--speaker", "Anna", "--no-browser"]
    with started(command, tmp_path) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        match = re.fullmatch(
            r"http://([\d.:]+)/([\w-]{20,})/   \(Ctrl-C ends it\)\n", first
        )
        assert match, first
        # Nobody else may record into the folder meanwhile.
        busy = subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert busy.returncode == 2 and "Somebody is recording" in busy.stderr
        for place in (0, 0, 0, 1, 1, 1, 2, 3):
            pcm = sound((0.7, 0.4), seed=place, hertz=400 + 90 * place)
            pcm += np.int16(len(list(tmp_path.rglob("*.wav"))))  # no two alike
            if place > 2:
                pcm = sound(seconds=10)
            send(match, f"take?speaker=Anna&prompt={place}&rate={RATE}", pcm)
        said = send(match, "finish")
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert re.findall(r"^(.*?) +(\d+)$", rest, re.M) == [
        ("go", "3"),
        ("stop", "3"),
        ("no", "1"),
        ("(quiet room)", "1"),
        ("(lively room)", "0"),
    ]
    line = rest.splitlines()[-1].removeprefix("Next: ")
    assert line == said["next"]
    assert line == (
        "kws data synth --words go,stop --out mine-spoken && kws train --from "
        "kwt-stream-tiny --words go,stop --data mine:8 --also mine-spoken --epochs 12 "
        "--qat-epochs 2 --variants 4 --out runs/mine"
    )


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    def listen_to_interrupts() -> None:  # a shell's background job doesn't
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with (
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=listen_to_interrupts,
        ) as process,
        contextlib.ExitStack() as end,
    ):
        end.callback(process.kill)
        yield process


def test_who_asks_for_the_end_hears_the_answer() -> None:
    """The process ended while it was answered, now and then."""
    asked, answered = threading.Event(), threading.Event()

    class Slow(page_server.PageServer):
        def get(self, path: str, query: dict[str, str]) -> page_server.Answer | None:
            asked.set()
            time.sleep(0.3)
            answered.set()
            return None

    server = Slow(0, "kws live")
    with server.serving() as address:
        connection = http.client.HTTPConnection(server.host, timeout=60)
        connection.request("GET", address.removeprefix(server.origin))
        assert asked.wait(60)
    assert answered.is_set() and connection.getresponse().status == 404


def send(match: re.Match[str], path: str, pcm: np.ndarray | None = None) -> Any:
    connection = http.client.HTTPConnection(match[1], timeout=60)
    kind = "application/json" if pcm is None else KIND
    body = b"" if pcm is None else pcm.tobytes()
    connection.request("POST", f"/{match[2]}/{path}", body, {"Content-Type": kind})
    answer = connection.getresponse()
    assert answer.status == 200
    table = json.loads(answer.read())
    assert table.get("problem", "") == ""
    return table


def test_the_verb_is_stopped_by_ctrl_c_and_tells_how_to_go_on(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        toolbox.skip_or_fail("openssl is not installed")
    arguments = ["data", "record", "go,hey robot", "--out", "mine", "--json", "--phone"]
    arguments += ["--near", "no,so"]
    with started([*COMMAND, *arguments, "--address", "127.0.0.1"], tmp_path) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["address"].startswith("https://127.0.0.1:")
        assert re.fullmatch("([0-9A-F]{2}:){31}[0-9A-F]{2}", first["fingerprint"])
        process.send_signal(signal.SIGINT)
        last = json.loads(process.stdout.read())
        assert process.wait(60) == 0
    assert last["made"] == 0 and last["clips"]["hey robot"] == 0
    assert last["next"] == (
        "kws data record go 'hey robot' --out mine --near no,so --phone --address "
        "127.0.0.1 --json"
    )
    assert not (tmp_path / "mine" / ".recording").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["../x"], "A word may have"),
        (["go", "go"], "named twice"),
        (["go", "--near", "go"], "named twice"),
        (["go", "--room-seconds", "5"], "10 to 60"),
        (["go", "--address", "127.0.0.1"], "--phone"),
        (["go", "--terminal", "--phone"], "--terminal"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    words = ["data", "record", *arguments, "--out", str(tmp_path / "mine")]
    with pytest.raises((KwsError, click.UsageError), match=says):
        cli.main(words, standalone_mode=False)
    assert list(tmp_path.iterdir()) == []
