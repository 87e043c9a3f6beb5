"""The page that listens, in a real browser: it computes the board's bits, from a file,
a microphone or a board; it moves thresholds; and it asks the network for nothing."""

from __future__ import annotations

import base64
import contextlib
import csv
import dataclasses
import http.client
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import browser as browsers
import numpy as np
import pytest
import soundfile
import soxr
import toolbox
from browser import Browser
from click.testing import CliRunner

from kws import bundle as bundles
from kws import recipe as recipes
from kws.bundle import Bundle
from kws.cli import cli, demo
from kws.data import synth, tape
from kws.deploy import boards, emission, flash, host, profile, run, serve, web
from kws.emit import web as emitted
from kws.errors import KwsError

# Spoken so that both shipped models hear them with room to spare.
WORDS, SEED = ("yes", "stop", "up", "right"), 3
DECLARATIONS = """
    typedef struct { uint16_t label, score; uint64_t start_ms, time_ms; } event_t;
    int kws_init(void);
    size_t kws_push(const int16_t *pcm, size_t n);
    int kws_poll(event_t *event);
    const int8_t *kws_last_logits(void);
    uint16_t kws_score(int label);
    size_t kws_host_sent(uint32_t *sent, size_t room);
"""


@dataclasses.dataclass(frozen=True)
class Spoken:
    """A tape: its file, its samples, and what is said when."""

    path: Path
    pcm: np.ndarray
    windows: list[tape.Window]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    toolbox.need_espeak()
    path = tmp_path_factory.mktemp("tape") / "words.wav"
    windows = synth.write_stream(path, list(WORDS), SEED)
    return Spoken(path, soundfile.read(path, dtype="int16")[0], windows)


@pytest.fixture(scope="module")
def browser(
    spoken: Spoken, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    toolbox.need_compiler("zig")
    folder = tmp_path_factory.mktemp("browser")
    with browsers.opened(folder, spoken.path) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> str:
    """kwt-tiny as a file of its own."""
    out = tmp_path_factory.mktemp("page") / "kwt-tiny.html"
    arguments = ("emit", "kwt-tiny", "--format", "web", "--out", str(out), "--json")
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    said = json.loads(done.stdout)
    assert said["files"] == [str(out)] and said["bytes"] == out.stat().st_size
    return out.as_uri()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(bundles.PRETRAINED / "kwt-tiny", tmp_path / "mine"))


Decision = tuple[str, str, list[int], list[str]]


def decisions(bundle: Bundle, pcm: np.ndarray) -> list[Decision]:
    """Word heard, share skipped, logits and scores of each of the host's decisions."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    lib = ffi.dlopen(str(host.library(bundle)))
    assert lib.kws_init() == 0
    event = ffi.new("event_t *")
    labels, products = len(bundle.labels), emission.products(bundle)
    dense = sum(product.macs * product.elements for product in products)
    sent = ffi.new("uint32_t[]", len(products) + 1)
    found = []
    for at in range(0, len(pcm), 160):
        block = np.ascontiguousarray(pcm[at : at + 160])
        lib.kws_push(ffi.cast("int16_t *", block.ctypes.data), len(block))
        while done := lib.kws_poll(event):
            lib.kws_host_sent(sent, len(products))
            executed = sum(p.macs * sent[i] for i, p in enumerate(products))
            found.append(
                (
                    bundle.labels[event.label] if done == 2 else "",
                    f"{1 - executed / dense if dense else 0:.4f}",
                    ffi.unpack(lib.kws_last_logits(), labels),
                    [f"{lib.kws_score(i) / 32767:.4f}" for i in range(labels)],
                )
            )
    return found


def shown(browser: Browser, labels: int) -> list[Decision]:
    """The same from the table that the page saves."""
    browser.part("table").click()
    rows = list(csv.reader(io.StringIO(browser.saved("decisions.csv"))))
    first = 3 + labels
    return [
        (row[1], row[2], [int(value) for value in row[3:first]], row[first:])
        for row in rows[1:]
    ]


def padded(pcm: np.ndarray) -> np.ndarray:
    return np.concatenate([pcm, np.zeros(16000, np.int16)])


def streaming(folder: Path) -> Bundle:
    """A network that computes each token once, untrained."""
    pytest.importorskip("tensorflow")
    import sample_models

    spec = recipes.load("kwt-stream-tiny")
    return sample_models.bundle(folder, spec, sample_models.network(spec))


def skipping(folder: Path) -> Bundle:
    """Delta thresholds of every kind."""
    steps = {"X": 2, "Q": 2, "K": 1, "P": 1, "O": 2, "M": 4, "H": 0}
    return dataclasses.replace(bundles.load("kwt-tiny"), thresholds=steps)


@pytest.mark.parametrize(
    ("made", "heard"),
    [
        (lambda _: bundles.load("kwt-tiny"), True),
        (lambda _: bundles.load("kwt-small"), True),
        (skipping, True),
        (streaming, False),
    ],
    ids=["dense", "half-skipping", "skipping", "streaming"],
)
def test_every_decision_is_the_host_engine_s_bit_for_bit(
    browser: Browser,
    spoken: Spoken,
    tmp_path: Path,
    made: Callable[[Path], Bundle],
    heard: bool,
) -> None:
    bundle = made(tmp_path / "run")
    browser.open(web.emit(bundle, tmp_path / "page.html").as_uri())
    assert "passed the board's self-test" in browser.text("selftest")
    assert browser.text("hash") == bundle.hash[:16]
    browser.hear(spoken.path)
    expected = decisions(bundle, padded(spoken.pcm))
    assert len(expected) > 30
    assert shown(browser, len(bundle.labels)) == expected
    assert len({tuple(logits) for _, _, logits, _ in expected}) > 20
    words = [word for word, *_ in expected if word]
    assert [word for _, word, _ in browser.events()] == words
    assert words == list(WORDS) or not heard
    skips = [skipped for _, skipped, _, _ in expected]
    assert min(skips) > "0.1" if bundle.thresholds else set(skips) == {"0.0000"}
    assert browser.part("skips").is_displayed() == bool(bundle.thresholds)
    assert "NaN" not in browser.text("work")
    assert browser.complaints() == []


def test_a_recording_can_be_dropped_on_the_page(
    browser: Browser, spoken: Spoken, page: str
) -> None:
    browser.open(page)
    browser.speed("0")
    browser.run(
        "const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));"
        "const dataTransfer = new DataTransfer();"
        "dataTransfer.items.add(new File([bytes], 'dropped.wav'));"
        "const options = { dataTransfer, bubbles: true, cancelable: true };"
        "document.body.dispatchEvent(new DragEvent('drop', options));",
        base64.b64encode(spoken.path.read_bytes()).decode(),
    )
    browser.wait_for("state", lambda text: text.startswith("Heard all of dropped.wav"))
    assert [word for _, word, _ in browser.events()] == list(WORDS)


@pytest.mark.parametrize(
    ("rate", "channels", "kind", "subtype"),
    [
        (48000, 2, "WAV", "FLOAT"),
        (44100, 1, "WAV", "PCM_24"),
        (8000, 1, "WAV", "PCM_U8"),
        (22050, 1, "WAV", "DOUBLE"),
        (48000, 1, "WAVEX", "PCM_32"),
        (44100, 2, "FLAC", "PCM_16"),
    ],
)
def test_recordings_of_other_kinds_are_heard_too(
    browser: Browser,
    spoken: Spoken,
    page: str,
    tmp_path: Path,
    rate: int,
    channels: int,
    kind: str,
    subtype: str,
) -> None:
    sound = soxr.resample(spoken.pcm / 32768, 16000, rate)
    file = tmp_path / f"other.{kind.lower()[:4].removesuffix('x')}"
    several = np.repeat(sound[:, None], channels, 1)
    soundfile.write(file, several, rate, subtype=subtype, format=kind)
    browser.open(page)
    browser.hear(file)
    assert "resampled to 16,000" in browser.text("state")
    # 8 kHz has no hiss of an s: what is said is still there.
    found = [word for _, word, _ in browser.events()]
    assert found == list(WORDS) or (rate == 8000 and "right" in found)


@pytest.mark.parametrize(("hertz", "passes"), [(7000, True), (9000, False)])
def test_the_resampler_keeps_what_fits_and_lets_nothing_fold_back(
    browser: Browser, page: str, tmp_path: Path, hertz: int, passes: bool
) -> None:
    time = np.arange(40 * 48000) / 48000  # stopped long before, however busy it is
    tone = 0.5 * np.sin(2 * np.pi * hertz * time) * np.minimum(1, time)  # no click
    soundfile.write(tmp_path / "tone.wav", tone, 48000, subtype="FLOAT")
    browser.open(page)
    browser.speed("4")
    browser.part("file").send_keys(str(tmp_path / "tone.wav"))
    clock = lambda text: 2 < float(text.removesuffix(" s")) < 39  # noqa: E731
    browser.wait_for("clock", clock)
    assert browser.text("level-text") == ("-6 dB" if passes else "-60 dB")
    browser.part("stop").click()
    assert browser.text("state") == "Stopped."


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("not-audio.wav", b"nothing of the kind", "can't read not-audio.wav"),
        (
            "empty.wav",
            b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0"
            b"\x02\0\x10\0data\0\0\0\0",
            "no sound in empty.wav",
        ),
        (
            "cut.wav",
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + bytes(30),
            "can't read cut.wav",
        ),
    ],
)
def test_what_is_no_recording_is_said(
    browser: Browser, page: str, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    browser.open(page)
    browser.part("file").send_keys(str(tmp_path / name))
    browser.wait_for("state", lambda text: says in text)
    assert not browser.part("stop").is_enabled()


@pytest.mark.parametrize("served", [False, True], ids=["file", "served"])
def test_the_microphone_is_heard(
    browser: Browser, spoken: Spoken, page: str, served: bool
) -> None:
    if served:
        with serve.Server("kwt-tiny").serving() as address:
            _listens(browser, spoken, address)
    else:
        _listens(browser, spoken, page)


def _listens(browser: Browser, spoken: Spoken, address: str) -> None:
    browser.open(address)
    browser.part("microphone").click()
    browser.wait_for("state", lambda text: "Hz resampled to 16,000" in text)
    browser.wait_for("count", lambda text: text == f"{len(WORDS)} words")
    found = browser.events()
    assert [word for _, word, _ in found] == list(WORDS)
    # The tape starts as the microphone is opened: within half a second or so.
    for (seconds, _, _), window in zip(found, spoken.windows, strict=True):
        assert window.start_s - 0.5 < seconds < window.end_s + 1.5
    browser.part("stop").click()
    assert browser.text("state") == "Stopped." and browser.complaints() == []


def test_moved_thresholds_are_heard_at_once_and_saved_into_the_run(
    browser: Browser, spoken: Spoken, own: Path
) -> None:
    before = bundles.load(own)
    with serve.Server(own).serving() as address:
        browser.open(address)
        slider = browser.part(f"threshold-{before.labels.index('stop')}")
        slider.send_keys(*["\ue014"] * 30)  # to the right: 0.01 each, up to 1
        slider = browser.part(f"threshold-{before.labels.index('yes')}")
        slider.send_keys(*["\ue012"] * 5)
        browser.wait_for("changed", lambda text: "yes 0.70 to 0.65" in text)
        assert "stop 0.70 to 1.00" in browser.text("changed")
        browser.hear(spoken.path)
        assert [word for _, word, _ in browser.events()] == ["yes", "up", "right"]
        assert bundles.load(own) == before  # nothing is written unasked
        browser.part("save").click()
        browser.wait_for("saved", lambda text: text.startswith("Saved."))
        after = bundles.load(own)
        expected = [0.7] * 8
        expected[0], expected[6] = 0.65, 1.0
        assert after.recipe.detector.word_thresholds == tuple(expected)
        assert browser.text("hash") == after.hash[:16] != before.hash[:16]
        assert not browser.part("save-row").is_displayed()
        # The next page is of the run as it is now, in its C too.
        browser.open(address)
        assert browser.text("hash") == after.hash[:16]
        slider = browser.part(f"threshold-{before.labels.index('yes')}")
        assert slider.get_attribute("value") == "0.65"
        browser.hear(spoken.path)
        assert [word for _, word, _ in browser.events()] == ["yes", "up", "right"]
        # Who has an old page can't write over a newer run.
        browser.part("threshold-3").send_keys("\ue012")
        bundles.save(before)
        browser.part("save").click()
        browser.wait_for("saved", lambda text: "has changed since" in text)
    assert bundles.load(own) == before
    browser.part("save").click()
    browser.wait_for("saved", lambda text: "is kws live still running?" in text)


def test_a_threshold_stops_where_a_word_is_armed_again_and_can_be_undone(
    browser: Browser, page: str
) -> None:
    browser.open(page)
    slider = browser.part("threshold-2")
    slider.send_keys("\ue011")  # Home
    assert slider.get_attribute("value") == "0.4"
    assert slider.get_attribute("aria-valuetext") == "heard from 0.400"
    assert "word_thresholds = [0.4, 0.7, 0.7" in browser.text("recipe")
    browser.part("undo").click()
    assert slider.get_attribute("value") == "0.7"
    assert not browser.part("save-row").is_displayed()


def test_a_shipped_run_stays_as_it_is(browser: Browser) -> None:
    server = serve.Server("kwt-tiny")
    with server.serving() as address:
        browser.open(address)
        browser.part("threshold-2").send_keys("\ue012")
        assert browser.text("save") == "Copy for recipe.toml"
        assert "cp -r" in browser.text("saved")
        body = {
            "hash": bundles.load("kwt-tiny").hash[:16],
            "word_thresholds": [0.5] * 8,
        }
        with pytest.raises(KwsError, match="shipped run stays"):
            server.save(json.dumps(body).encode())


def test_the_page_alone_reads_and_writes(own: Path) -> None:
    toolbox.need_compiler("zig")
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    server = serve.Server(own)
    good = {"hash": bundles.load(own).hash[:16], "word_thresholds": [0.5] * 8}
    kind = {"Content-Type": "application/json"}

    def asked(
        method: str, path: str, body: str = "", **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection(server.host, timeout=30)
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers

    with server.serving():
        here, text = f"/{server.token}/", json.dumps(good)
        there = here + "thresholds"
        status, body, headers = asked("GET", here)
        assert status == 200 and "Content-Security-Policy" in body
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store"
        for path in ("/", "/thresholds", f"/{server.token}", f"/{'x' * 22}/", there):
            assert asked("GET", path)[0] == 404
        # A name of another page's that was made to point here.
        assert asked("GET", here, Host="rebound.example")[0] == 404
        assert asked("POST", "/x/thresholds", text, **kind)[0] == 404
        assert (
            asked("POST", there, text, Origin="http://other.example", **kind)[0] == 404
        )
        assert asked("POST", there, text, **{"Content-Type": "text/plain"})[0] == 404
        assert asked("POST", there, " " * (serve.MAX_BODY + 1), **kind)[0] == 413
        for wrong in (
            "[",
            "[]",
            '{"hash": 1}',
            "[" * 50000,
            json.dumps({**good, "hash": "0" * 16}),
            json.dumps({**good, "word_thresholds": [0.5] * 7}),
            json.dumps({**good, "word_thresholds": [0.5] * 7 + ["x"]}),
            json.dumps({**good, "word_thresholds": [0.5] * 7 + [0.1]}),
            json.dumps({**good, "word_thresholds": [0.5] * 7 + [float("nan")]}),
            json.dumps({**good, "word_thresholds": [0.5] * 7 + [True]}),
        ):
            status, body, _ = asked("POST", there, wrong, **kind)
            assert status == 409 and json.loads(body)["error"], wrong
        assert {path.name: path.read_bytes() for path in own.iterdir()} == before
        status, body, _ = asked("POST", there, text, **kind)
        assert status == 200
        assert json.loads(body)["hash"] == bundles.load(own).hash[:16] != good["hash"]
        shutil.rmtree(own)
        assert asked("GET", here)[0] == 500


def test_a_full_disk_is_said_to_the_page(own: Path) -> None:
    """The page got no answer, the terminal a stack trace."""
    toolbox.need_compiler("zig")
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    server = serve.Server(own)
    good = {"hash": bundles.load(own).hash[:16], "word_thresholds": [0.5] * 8}
    with server.serving(), toolbox.full_disk(100):
        connection = http.client.HTTPConnection(server.host, timeout=30)
        kind = {"Content-Type": "application/json"}
        there = f"/{server.token}/{emitted.CHANGES}"
        connection.request("POST", there, json.dumps(good), kind)
        answer = connection.getresponse()
        said = json.loads(answer.read())
    assert answer.status == 409 and "can't be written: File too large" in said["error"]
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


def test_a_full_disk_is_said_instead_of_the_page(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was trained anew is built when the page is loaded again."""
    toolbox.need_compiler("zig")
    server = serve.Server(own)
    monkeypatch.setenv("KWS_CACHE", str(tmp_path / "new"))
    with server.serving(), toolbox.full_disk(100):
        connection = http.client.HTTPConnection(server.host, timeout=60)
        connection.request("GET", f"/{server.token}/")
        answer = connection.getresponse()
        said = answer.read().decode()
    assert answer.status == 500 and "Make room on the disk" in said


def test_a_page_that_was_sent_works_without_a_network(
    browser: Browser, spoken: Spoken, page: str
) -> None:
    server = serve.Server("kwt-tiny")
    offline = {"offline": True, "latency": 0}
    offline |= {"downloadThroughput": 0, "uploadThroughput": 0}
    browser.command("Network.enable")
    browser.command("Network.emulateNetworkConditions", **offline)
    try:
        browser.open(page)
        browser.hear(spoken.path)
        assert [word for _, word, _ in browser.events()] == list(WORDS)
        loaded = "return performance.getEntriesByType('resource').map((e) => e.name)"
        assert browser.run(loaded) == []
    finally:
        online = {**offline, "offline": False}
        online |= {"downloadThroughput": -1, "uploadThroughput": -1}
        browser.command("Network.emulateNetworkConditions", **online)
    # And with one it may not reach out, nor run a script that somebody put into it.
    with server.serving() as address:
        fetched = browser.run(
            "return fetch(arguments[0]).then(() => 'answered', () => 'refused')",
            address,
        )
        assert fetched == "refused"
        browser.run(
            "const script = document.createElement('script');"
            "script.textContent = 'window.intruder = 1';"
            "document.body.append(script);"
        )
        assert browser.run("return window.intruder ?? null") is None
        said = " ".join(browser.complaints())
        assert "connect-src 'none'" in said and "script-src" in said


def test_the_page_s_parts_are_files_of_the_page_s_own_kind() -> None:
    folder = emitted.FOLDER
    script = "".join(
        (folder / name).read_text("utf-8") for name in ("microphone.js", "app.js")
    )
    for forbidden in ("innerHTML", "eval(", "new Function", "document.write", "http:"):
        assert forbidden not in script
    styles = ("page.html", "base.css", "style.css")
    every = script + "".join((folder / name).read_text("utf-8") for name in styles)
    assert "//cdn" not in every and "@import" not in every and "url(" not in every


def test_labels_are_text_whatever_they_hold(
    browser: Browser, spoken: Spoken, tmp_path: Path
) -> None:
    tiny = bundles.load("kwt-tiny")
    strange = ("</script><script>document.title='taken'</script>", "&amp;", 'a"b,c')
    labels = (*tiny.labels[:2], "yes", *strange, *tiny.labels[6:])
    bundle = dataclasses.replace(tiny, labels=labels)
    browser.open(web.emit(bundle, tmp_path / "page.html").as_uri())
    assert browser.driver.title == "kwt-tiny, live"
    every = "return [...document.querySelectorAll('#words label')]"
    names = browser.run(every + ".map((label) => label.textContent)")
    assert names == list(labels[2:])
    browser.hear(spoken.path)
    browser.part("table").click()
    head = next(csv.reader(io.StringIO(browser.saved("decisions.csv"))))
    assert head[3:13] == [f"logit {label}" for label in labels]


BOARD = """
    // The port alone is made up: what it says is an emulated board's own text.
    const bytes = new TextEncoder().encode(arguments[0]), cuts = [7, 100, 1000];
    const parts = [];
    for (let at = 0; at < bytes.length;) {
      const cut = cuts[parts.length % cuts.length];
      parts.push(bytes.subarray(at, at + cut));
      at += cut;
    }
    const port = {
      async open({ baudRate }) { window.baud = baudRate; },
      async close() {},
      readable: new ReadableStream({ pull(c) {
        if (parts.length) c.enqueue(parts.shift());
      } }),
    };
    Object.defineProperty(navigator, "serial",
      { value: { requestPort: async () => port }, configurable: true });
"""


@pytest.fixture(scope="module")
def board_text(spoken: Spoken, tmp_path_factory: pytest.TempPathFactory) -> str:
    """All that an emulated board says as it hears the tape."""
    toolbox.need_qemu()
    bundle, board = bundles.load("kwt-small"), boards.load("qemu-m4")
    folder = tmp_path_factory.mktemp("board")
    image = flash.emit_and_build(bundle, board, folder)
    said = bytearray()
    run.listen(
        image.elf, board, padded(spoken.pcm), bundle.hash[:16], on_text=said.extend
    )
    return said.decode()


def test_a_board_is_followed(browser: Browser, board_text: str, tmp_path: Path) -> None:
    bundle = bundles.load("kwt-small")
    lines = re.findall(
        r"kws event word=(\w+) .*?time_ms=(\d+) score=([\d.]+)", board_text
    )
    assert [word for word, _, _ in lines] == list(WORDS)
    browser.open(web.emit(bundle, tmp_path / "page.html").as_uri())
    noise = "\x1b[2J half a line\r\nkws event word=yes time_ms=1 score=7\nkws event\n"
    browser.run(BOARD, "x" * 5000 + "\n" + noise + board_text)
    browser.part("board").click()
    browser.wait_for("count", lambda text: text == "4 words")
    assert browser.events() == [
        (round(int(ms) / 1000, 2), word, round(float(score), 2))
        for word, ms, score in lines
    ]
    assert browser.run("return window.baud") == 115200
    macs, dense = re.findall(r"macs=(\d+) macs_dense=(\d+)", board_text)[-1]
    share = f"{100 * (1 - int(macs) / int(dense)):.0f} %"
    browser.wait_for("skipped", lambda text: text == share)
    assert "decisions a second, board" in browser.text("work")
    # Then it falls silent.
    browser.wait_for("state", lambda text: "says nothing" in text)


def test_a_board_with_another_model_is_refused(
    browser: Browser, board_text: str, page: str
) -> None:
    browser.open(page)
    browser.run(BOARD, board_text)
    browser.part("board").click()
    browser.wait_for("state", lambda text: "runs another model" in text)
    assert bundles.load("kwt-small").hash[:16] in browser.text("state")
    assert browser.events() == []


def test_what_a_board_would_do_is_counted_and_shown(
    browser: Browser, own: Path
) -> None:
    toolbox.need_qemu()
    bundle, board = bundles.load(own), boards.load("qemu-m4")
    measured = profile.on_board(bundle, board, own / "build")
    with serve.Server(own, measured=measured).serving() as address:
        browser.open(address)
        text = browser.text("work")
    assert f"instructions a decision, qemu-m4\n{measured.cost:,}" in text
    a_second = measured.cost * 6.25 + 100 * (measured.feature_cost or 0)
    assert f"features and model\n{a_second / 1e6:.1f} million" in text
    assert "battery" not in text  # which nobody knows here


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_fits_and_can_be_read(
    browser: Browser, spoken: Spoken, page: str, scheme: str, width: int
) -> None:
    browser.open(page, width, prefers_color_scheme=scheme)
    browser.hear(spoken.path)
    browser.part("threshold-2").send_keys("\ue012")
    browser.run("for (const d of document.querySelectorAll('details')) d.open = true")
    wide, room = browser.run(
        "return [document.documentElement.scrollWidth, innerWidth]"
    )
    assert wide <= room == width
    low = browser.run(browsers.CONTRAST)
    assert low == []


FOCUS = """
    const focus = document.activeElement;
    const shown = focus.id === "file" ? focus.nextSibling : focus; // its label
    return [focus.id, focus.matches(":focus-visible"),
      getComputedStyle(shown).outlineStyle];
"""


def test_every_control_has_a_name_and_is_reached_by_keyboard(
    browser: Browser, page: str
) -> None:
    browser.open(page)
    tree = browser.command("Accessibility.getFullAXTree")["nodes"]
    named: dict[str, list[str]] = {}
    for node in tree:
        role = node.get("role", {}).get("value", "")
        if not node.get("ignored"):
            named.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    words = list(bundles.load("kwt-tiny").labels[2:])
    assert named["slider"] == words
    assert named["log"] == ["Events"] and named["meter"] == ["Level"]
    assert {"Microphone", "Board on USB", "Stop"} <= set(named["button"])
    assert all(named["button"]) and all(named["combobox"])
    assert named["region"] == [
        "Listen to",
        "What it hears",
        "Events",
        "Words and thresholds",
        "Work",
    ]
    reached = []
    for _ in range(30):
        browser.tab()
        name, visible, outline = browser.run(FOCUS)
        if name:
            assert visible and outline == "solid", name
            reached.append(name)
    for name in ("microphone", "file", "board", "speed", "log", "threshold-9", "table"):
        assert name in reached


def test_who_wants_no_motion_gets_none(
    browser: Browser, spoken: Spoken, page: str
) -> None:
    browser.open(page, prefers_reduced_motion="reduce")
    browser.speed("16")
    browser.part("file").send_keys(str(spoken.path))
    browser.wait_for("count", lambda text: text != "none yet")
    style = "return getComputedStyle(document.getElementById('flash')).animationName"
    assert browser.run(style) == "none"


def test_the_verb_serves_until_it_is_stopped(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toolbox.need_compiler("zig")
    code = "import sys; from kws.cli import main; sys.argv[0] = 'kws'; main()"
    # As the demo says it, which offers the page at its end.
    demo._offer(own)
    line = shlex.split(capsys.readouterr().err.rpartition("Next: kws ")[2])
    command = [sys.executable, "-c", code, *line, "--no-browser", "--json"]

    def listen_to_interrupts() -> None:  # a shell's background job doesn't
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with (
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=listen_to_interrupts,
        ) as process,
        contextlib.ExitStack() as end,
    ):
        end.callback(process.kill)  # whatever fails: the block's end waits for it
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        match = re.fullmatch(
            r"http://(127\.0\.0\.1:\d+)(/[\w-]{20,}/)", said["address"]
        )
        assert match and said["run"] == str(own)
        connection = http.client.HTTPConnection(match[1], timeout=30)
        connection.request("GET", match[2])
        answer = connection.getresponse()
        assert answer.status == 200 and b"<title>kwt-tiny, live" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_without_zig_the_extra_is_named(tmp_path: Path) -> None:
    """As on a machine that has none: Python finds no ziglang."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = (\n"
        "    lambda name, *a: None if name == 'ziglang' else find(name, *a))\n"
    )
    code = "import sys; from kws.cli import main; sys.argv[0] = 'kws'; main()"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    for arguments in (
        ["live", "kwt-tiny", "--no-browser"],
        ["emit", "kwt-tiny", "--format", "web", "--out", str(tmp_path / "page.html")],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and "'ziglang'" in done.stderr
        assert "[zig]" in done.stderr
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--core", "dsp"], "no --core"),
        (["--engine", "tflm"], "--engine native"),
    ],
)
def test_a_page_is_for_no_core(tmp_path: Path, arguments: list[str], says: str) -> None:
    out = tmp_path / "page.html"
    with pytest.raises(KwsError, match=says):
        cli.main(
            ["emit", "kwt-tiny", "--format", "web", "--out", str(out), *arguments],
            standalone_mode=False,
        )
    assert not out.exists()


def test_a_port_that_is_taken_is_said() -> None:
    toolbox.need_compiler("zig")
    with serve.Server("kwt-tiny").serving() as address:
        port = int(address.split(":")[2].split("/")[0])
        with pytest.raises(KwsError, match=f"Received: {port}"):
            serve.Server("kwt-tiny", port)
