"""Fetching: resume, checksum, and archives that mean harm. A real HTTP server."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import small_corpus
import toolbox
from click.testing import CliRunner

from kws import data
from kws.cli import cli
from kws.cli import data as verb
from kws.cli._hints import as_typed
from kws.data import ambient, download
from kws.data.audio import wav_bytes
from kws.data.download import Source
from kws.data.speech_commands import COMMANDS
from kws.errors import KwsError
from kws.recipe import Task


def packed(root: Path) -> bytes:
    """A folder as .tar.gz, with ./ in front as the official one has."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(root, arcname=".")
    return out.getvalue()


class Server:
    """Serves one file; can break off after so many bytes, or change the file."""

    def __init__(self, body: bytes, name: str = "file.tar.gz") -> None:
        self.body = body
        self.tag = '"one"'
        self.break_after: list[int] = []  # bytes sent by each of the next answers
        self.ranges = True
        self.length: int | None = None  # what it says, where that isn't so
        self.requests: list[str | None] = []
        self.asked, self.pause = threading.Event(), threading.Event()
        self.pause.set()  # else: answers nothing until it is
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                outer.requests.append(wanted)
                outer.asked.set()
                outer.pause.wait()
                if self.path != f"/{name}":
                    self.send_error(404)
                    return
                start = 0
                if wanted and outer.ranges and self.headers["If-Range"] == outer.tag:
                    start = int(wanted.removeprefix("bytes=").rstrip("-"))
                    if start >= len(outer.body):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(outer.body)}")
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    self.send_response(206)
                    end, size = len(outer.body) - 1, len(outer.body)
                    self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
                else:
                    self.send_response(200)
                rest = outer.body[start:]
                self.send_header("ETag", outer.tag)
                self.send_header("Content-Length", str(outer.length or len(rest)))
                self.end_headers()
                if outer.break_after:
                    rest = rest[: outer.break_after.pop(0)]
                self.wfile.write(rest)
                self.close_connection = True

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/{name}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(download.time, "sleep", lambda _seconds: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def corpus_bytes(tmp_path_factory) -> bytes:
    return packed(small_corpus.make(tmp_path_factory.mktemp("corpus") / "c"))


@pytest.fixture
def server(corpus_bytes):
    running = Server(corpus_bytes)
    yield running
    running.close()


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_fetch_downloads_checks_and_unpacks(server, tmp_path):
    source = Source(server.url, sha256(server.body), len(server.body))
    report = download.fetch(source, tmp_path / "out")
    assert report["checked"] and report["files"] == 4 * 8 + 2
    clips = data.load("train", Task("custom", words=("yes",)), tmp_path / "out")
    assert (clips.label == 2).sum() == 4
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["out"]


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.break_after = [50_000, 30_000]
    source = Source(server.url, sha256(server.body), len(server.body))
    download.download(source, tmp_path / "file")
    assert server.requests == [None, "bytes=50000-", "bytes=80000-"]
    assert (tmp_path / "file").read_bytes() == server.body


def test_a_second_run_resumes_what_the_first_left(server, tmp_path):
    server.break_after = [1000] * download.ATTEMPTS
    with pytest.raises(KwsError, match="not complete") as error:
        download.download(Source(server.url), tmp_path / "file")
    assert "again" in error.value.hint
    assert not (tmp_path / "file").exists()
    server.requests.clear()
    download.download(Source(server.url), tmp_path / "file")
    assert server.requests == [f"bytes={1000 * download.ATTEMPTS}-"]
    assert (tmp_path / "file").read_bytes() == server.body


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    server.break_after = [1000] * download.ATTEMPTS
    with pytest.raises(KwsError):
        download.download(Source(server.url), tmp_path / "file")
    server.body, server.tag = server.body[::-1], '"two"'
    download.download(Source(server.url), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.body


def test_a_server_that_cannot_resume_starts_anew(server, tmp_path):
    server.ranges = False
    server.break_after = [1000]
    download.download(Source(server.url, sha256(server.body)), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.body


def test_a_complete_part_needs_no_more_bytes(server, tmp_path):
    source = Source(server.url, sha256(server.body), len(server.body))
    (tmp_path / "file.part").write_bytes(server.body)
    note = {"url": server.url, "tag": server.tag}
    (tmp_path / "file.part.json").write_text(json.dumps(note))
    download.download(source, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.body


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(KwsError, match="not the one that was published"):
        download.fetch(Source(server.url, "0" * 64), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == []


def test_more_bytes_than_announced_are_not_stored(server, tmp_path):
    with pytest.raises(KwsError, match="larger"):
        download.download(Source(server.url, size=5000), tmp_path / "file")
    part = tmp_path / "file.part"
    assert not part.exists() or part.stat().st_size <= 5000


def test_without_room_nothing_is_received(server, tmp_path):
    free = shutil.disk_usage(tmp_path).free
    for room, size in ((1, 2 * free), (2, free // 4 * 3)):
        server.length, source = size, Source(server.url, size=size)
        with pytest.raises(KwsError, match="not enough room") as error:
            download.download(source, tmp_path / "file", room=room)
        assert f"at least {room * size:,} bytes" in error.value.message
    assert len(server.requests) == 2 and not (tmp_path / "file.part").exists()


def test_a_full_disk_is_no_broken_connection(server, tmp_path):
    with toolbox.full_disk(40_000), pytest.raises(OSError) as error:
        download.download(Source(server.url), tmp_path / "file")
    assert error.value.errno == errno.EFBIG and error.value.filename
    assert len(server.requests) == 1
    download.download(Source(server.url), tmp_path / "file")  # goes on
    assert server.requests[1:] == ["bytes=40000-"]
    assert (tmp_path / "file").read_bytes() == server.body


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/x", "nonsense", "http://", "http://[::1"]
    + ["http://host:abc/x", "http://host:99999/x", "http://ho st/x", "http://a..b/x"],
)
def test_only_http_is_fetched(url, tmp_path):
    with pytest.raises(KwsError, match="addresses can be fetched") as error:
        download.download(Source(url), tmp_path / "new" / "file")
    assert error.value.hint.startswith("kws data fetch --url https://")
    assert not (tmp_path / "new").exists()


def test_a_wrong_address_fails_at_once(server, tmp_path):
    with pytest.raises(KwsError, match="404") as error:
        download.download(Source(server.url + "x"), tmp_path / "file")
    assert len(server.requests) == 1
    assert error.value.hint.startswith(f"curl -I {server.url}x ")


def test_nobody_who_answers_is_asked_again(tmp_path):
    silent = Server(b"")
    silent.close()
    with pytest.raises(KwsError, match="the connection broke .*refused") as error:
        download.download(Source(silent.url), tmp_path / "file")
    assert "Run the same command again" in error.value.hint


def member(
    name: str, body: bytes = b"x", **attributes
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(body)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, body


HOSTILE = {
    "parent_folder": [member("../escaped.wav")],
    "deep_parent_folder": [member("yes/../../escaped.wav")],
    "absolute": [member("/tmp/escaped.wav")],
    "backslash": [member("yes\\..\\..\\escaped.wav")],
    "drive": [member("C:/escaped.wav")],
    "symbolic_link": [member("link", b"", type=tarfile.SYMTYPE, linkname="/etc")],
    "hard_link": [member("link", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
    "link_then_file": [
        member("yes", b"", type=tarfile.SYMTYPE, linkname=".."),
        member("yes/escaped.wav"),
    ],
    "device": [member("null", b"", type=tarfile.CHRTYPE)],
    "pipe": [member("pipe", b"", type=tarfile.FIFOTYPE)],
    "twice": [member("yes/a.wav"), member("yes/a.wav")],
    "file_as_folder": [member("yes"), member("yes/a.wav")],
    "too_large": [member("yes/a.wav", b"\0" * (download.MAX_MEMBER_BYTES + 1))],
    "long_name": [member("yes/" + "a" * 300)],
    "huge_header": [member("x", b"\0" * (2 << 20), type=tarfile.XHDTYPE)],
    "nothing": [],
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(fault, tmp_path):
    archive = tmp_path / "in" / "bad.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for info, body in [member("ok/a.wav")][: len(HOSTILE[fault])] + HOSTILE[fault]:
            tar.addfile(info, io.BytesIO(body))
    with pytest.raises(KwsError, match="refused"):
        download.unpack(archive, tmp_path / "deep" / "out")
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p != archive]
    assert left == [] and not (tmp_path / "deep" / "out").exists()


def test_a_cut_off_archive_is_refused_and_leaves_nothing(corpus_bytes, tmp_path):
    archive = tmp_path / "cut.tar.gz"
    for size in (0, 5, 1000, len(corpus_bytes) // 2, len(corpus_bytes) - 5):
        archive.write_bytes(corpus_bytes[:size])
        with pytest.raises(KwsError, match="refused"):
            download.unpack(archive, tmp_path / "out")
        assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == [
            "cut.tar.gz"
        ]


def test_an_archive_in_one_folder_is_unpacked_without_it(tmp_path):
    inner = small_corpus.make(tmp_path / "in" / "speech_commands")
    (tmp_path / "a.tar.gz").write_bytes(packed(inner.parent))
    download.unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out" / "yes").is_dir()


def test_load_reads_a_tar_gz(corpus_bytes, tmp_path):
    archive = tmp_path / "corpus.tar.gz"
    archive.write_bytes(corpus_bytes)
    for _ in range(2):
        clips = data.load("val", Task("custom", words=("yes", "no")), archive)
        assert (clips.label >= 2).sum() == 4


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A version of clips and test files, with a manifest: the servers of both."""
    files = {f"{word}/a_nohash_0.wav": rain(1) for word in ("yes", "_unknown_")}
    tests = Server(zipped(files), "test.zip")
    parts = [
        f'[{name}]\nurl = "{part.url}"\nsha256 = "{sha256(part.body)}"\n'
        for name, part in (("clips", server), ("test", tests))
    ]
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "speech_commands_v9.toml").write_text("".join(parts))
    monkeypatch.setattr(download, "DATASETS", tmp_path / "datasets")
    yield server, tests
    tests.close()


def fetch_v9(out: Path, *arguments: str):
    words = ["fetch", "--version", "v9", "--out", str(out), *arguments]
    return CliRunner().invoke(verb.command, words)


def test_what_is_there_is_known_by_what_was_unpacked(published, tmp_path):
    """A folder that isn't empty is no data set."""
    clips, tests = published
    out = tmp_path / "sc"
    for _ in range(2):
        # The test files first, and the clips beside them.
        for part in ("test", "all", "clips"):
            assert fetch_v9(out, "--part", part).exit_code == 0
    assert len(clips.requests) == len(tests.requests) == 1
    assert (out / "test_v9" / "yes").is_dir() and (out / "yes").is_dir()
    said = fetch_v9(out).stderr
    assert f"clips: already in {out}\ntest: already in {out / 'test_v9'}" in said
    (out / "test_v9" / download.MARK).unlink()
    for folder, others in ((out, "_unknown_, yes"), (tmp_path / "own", "notes.txt")):
        folder.mkdir(exist_ok=True)
        (folder / "notes.txt").touch()
        refused = fetch_v9(folder).exception
        assert isinstance(refused, KwsError) and f"which holds {others}" in str(refused)
        assert refused.hint == f"kws data fetch --out {folder}-new ..."
    assert len(clips.requests) == 1  # refused before anything was fetched
    (out / download.MARK).write_text('{"url": "", "sha256": "0"}')  # another version
    assert isinstance(fetch_v9(out, "--part", "clips").exception, KwsError)


def test_a_folder_that_is_there_stays_the_same(server, tmp_path):
    """Somebody may stand in it, or a disk be mounted there."""
    out = tmp_path / "out"
    out.mkdir()
    before = out.stat().st_ino
    download.fetch(Source(server.url), out)
    assert out.stat().st_ino == before and (out / "yes").is_dir()
    assert not [file for file in out.iterdir() if "unpacking" in file.name]


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("stop", ["interrupted", "disk full"])
def test_stopped_while_it_unpacks_it_downloads_nothing_again(
    stop, checksum, server, tmp_path
):
    source = Source(server.url, sha256(server.body) if checksum else None)
    out = tmp_path / "out"
    if stop == "interrupted":

        def pressed(what: str, _done: int, _total: int) -> None:
            if what == "unpacked":
                raise KeyboardInterrupt

        files = {f"yes/{n}_nohash_0.wav": b"x" for n in range(100)}
        server.body = zipped(files)
        if checksum:
            source = Source(server.url, sha256(server.body))
        with pytest.raises(KeyboardInterrupt):
            download.fetch(source, out, progress=pressed)
    else:
        large = packed(small_corpus.make(tmp_path / "c"))
        (tmp_path / "c" / "yes" / "zeros.wav").write_bytes(bytes(2 * len(large)))
        server.body = packed(tmp_path / "c")
        if checksum:
            source = Source(server.url, sha256(server.body))
        with toolbox.full_disk(len(server.body) + 1000), pytest.raises(OSError):
            download.fetch(source, out)
    assert not out.exists() and (tmp_path / ".out.archive").is_file()
    assert not list(tmp_path.glob("*unpacking*"))
    server.requests.clear()
    download.fetch(source, out)
    # Without a checksum the server says whether it is still that file.
    asked = [] if checksum else [f"bytes={len(server.body)}-"]
    assert server.requests == asked and (out / "yes").is_dir()
    assert not list(tmp_path.glob(".out*"))


def test_what_a_killed_fetch_left_is_taken_or_removed(server, tmp_path):
    """Neither is unpacked debris left, nor a folder removed that isn't ours."""
    source = Source(server.url, sha256(server.body))
    out = tmp_path / "out"
    (tmp_path / ".out.archive").write_bytes(server.body)
    debris = [tmp_path / ".out.unpacking-ab12_x9z", out / ".out.unpacking-ab12_x9z"]
    own = tmp_path / ".out.archived"
    for folder in (*debris, own):
        folder.mkdir(parents=True)
        (folder / "x.wav").touch()
    download.check_free(out, out)
    download.fetch(source, out)
    assert not server.requests and (out / "yes").is_dir() and own.is_dir()
    assert not any(folder.exists() for folder in debris)


def test_an_archive_that_is_refused_is_not_kept(server, tmp_path):
    server.body = server.body[:-9]
    for _ in range(2):
        with pytest.raises(KwsError, match="refused"):
            download.fetch(Source(server.url), tmp_path / "out")
    assert server.requests == [None, None]
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == []


def test_manifests_name_the_official_addresses():
    assert download.versions() == ["v0.01", "v0.02"]
    for version in download.versions():
        clips = download.source(version)
        assert clips is not None and clips.sha256 is not None
        assert clips.url == (
            f"http://download.tensorflow.org/data/speech_commands_{version}.tar.gz"
        )
    assert download.source("v0.01", "test") is None
    with pytest.raises(KwsError, match="v0.02"):
        download.source("v3")


def test_the_verb_fetches_from_another_address(server, tmp_path):
    arguments = ["fetch", "--url", server.url, "--out", str(tmp_path / "o"), "--json"]
    result = CliRunner().invoke(verb.command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)["parts"]["clips"]
    assert report["sha256"] == sha256(server.body) and not report["checked"]
    assert report["sha256"] in result.stderr


def test_a_checksum_is_read_before_anything_is_fetched(server, tmp_path):
    base = ["fetch", "--url", server.url, "--out", str(tmp_path / "o"), "--sha256"]
    for wrong in ("abc", "x" * 64, sha256(b"") + "0"):
        refused = CliRunner().invoke(verb.command, [*base, wrong]).exception
        assert isinstance(refused, KwsError) and "64 hex digits" in str(refused)
    assert not server.requests
    other = CliRunner().invoke(verb.command, [*base, sha256(b"other")]).exception
    assert isinstance(other, KwsError) and "None" not in str(other)
    done = CliRunner().invoke(verb.command, [*base, f" {sha256(server.body).upper()}"])
    assert done.exit_code == 0


def test_the_folder_that_one_stands_in(server, tmp_path, monkeypatch):
    here = tmp_path / "here"
    for place in (here, here / "inner"):
        place.mkdir()
    monkeypatch.chdir(here / "inner")
    base = ["fetch", "--url", server.url, "--out"]
    refused = CliRunner().invoke(verb.command, [*base, ".."]).exception
    assert isinstance(refused, KwsError)
    assert refused.hint == "kws data fetch --out ../new ..."
    assert CliRunner().invoke(verb.command, [*base, "."]).exit_code == 0
    assert (here / "inner" / "yes").is_dir() and [*here.iterdir()] == [here / "inner"]
    assert Path("yes").is_dir()  # a shell is still where it was


FETCHING = """
import sys
from kws.cli import cli
cli(["data", "fetch", "--url", sys.argv[1], "--out", sys.argv[2]])
"""


def test_one_fetch_at_a_time_in_a_folder(server, tmp_path):
    """One that was killed keeps nobody out."""
    out = tmp_path / "out"
    arguments = ["fetch", "--url", server.url, "--out", str(out)]
    server.pause.clear()
    command = [sys.executable, "-c", FETCHING, server.url, str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as other:
        try:
            assert server.asked.wait(60)
            refused = CliRunner().invoke(verb.command, arguments).exception
        finally:
            other.kill()
            server.pause.set()
    assert isinstance(refused, KwsError) and f"process {other.pid}" in str(refused)
    assert refused.hint.endswith(f"kws data fetch --out {out}-new ...")
    assert CliRunner().invoke(verb.command, arguments).exit_code == 0
    assert (out / "yes").is_dir() and not list(tmp_path.glob(".out*"))


def test_two_that_unpack_the_same_archive(corpus_bytes, tmp_path):
    archive = tmp_path / "many.tar.gz"
    archive.write_bytes(corpus_bytes)
    ready = threading.Barrier(4)

    def take(_number: int) -> Path:
        ready.wait()
        return download.unpacked(archive)

    with ThreadPoolExecutor(4) as pool:
        (folder,) = {*pool.map(take, range(4))}
    assert (folder / "yes").is_dir() and [*folder.parent.iterdir()] == [folder]


def test_files_beside_the_folder_are_left_alone(server, tmp_path):
    """What it downloads has a name that nobody's own file has."""
    own = [tmp_path / f"gsc.{end}" for end in ("tar.gz", "tar.gz.part", "archive")]
    for file in own:
        file.write_bytes(b"mine")
    arguments = ["fetch", "--url", server.url, "--out", str(tmp_path / "gsc")]
    assert CliRunner().invoke(verb.command, arguments).exit_code == 0
    assert [file.read_bytes() for file in own] == [b"mine"] * 3
    assert {*tmp_path.iterdir()} - {*own} == {tmp_path / "gsc"}


def test_the_verb_takes_an_archive_at_hand(corpus_bytes, tmp_path, monkeypatch):
    archive = tmp_path / "mine.tar.gz"
    archive.write_bytes(corpus_bytes)
    base = ["fetch", "--archive", str(archive), "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(verb.command, base)
    assert isinstance(refused.exception, KwsError)  # not the official checksum
    digest = sha256(corpus_bytes)
    typed = as_typed(refused.exception.hint, cli, ["data", *base])
    again = f"kws data fetch --sha256 {digest} --archive {archive} "
    assert f"trust it: {again}--out {tmp_path / 'out'}" in typed
    none = [*base[:2], str(tmp_path / "no.tar.gz"), *base[3:]]
    refused = CliRunner().invoke(verb.command, none).exception
    assert refused.hint.startswith(f"ls {tmp_path} ")
    assert not (tmp_path / "out").exists()
    accepted = CliRunner().invoke(
        verb.command, [*base, "--sha256", sha256(corpus_bytes)], catch_exceptions=False
    )
    assert accepted.exit_code == 0 and (tmp_path / "out" / "yes").is_dir()
    assert archive.is_file()
    # What comes next needs all words of its task.
    monkeypatch.chdir(tmp_path)
    whole = small_corpus.make(tmp_path / "whole", (*COMMANDS, "cat"))
    archive.write_bytes(packed(whole))
    digest = sha256(archive.read_bytes())
    base = ["fetch", "--archive", str(archive), "--sha256", digest, "--out", "all"]
    accepted = CliRunner().invoke(verb.command, base, catch_exceptions=False)
    said = toolbox.begins_to_train(accepted.stdout.rpartition("Next: ")[2])
    assert "\nall\n" in said


# Ambient sound: several archives, of which parts are kept.


def rain(seconds: int = 40) -> bytes:
    draw = np.random.default_rng(seconds)
    return wav_bytes(draw.integers(-900, 900, 16000 * seconds).astype(np.int16))


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, body in files.items():
            packed.writestr(name, body)
    return out.getvalue()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Two servers, and a manifest that names them."""
    root = tmp_path / "packed" / "set"
    (root / "garden").mkdir(parents=True)
    (root / "garden" / "ch01.wav").write_bytes(rain(40))
    (root / "garden" / "ch02.wav").write_bytes(rain(41))
    first = Server(packed(root.parent), "garden.tar.gz")
    files = {"roof/ch01.wav": rain(42), "roof/ch02.wav": rain(43)}
    second = Server(zipped(files), "roof.zip")
    manifest = [
        'name = "Rain"\nlicence = "CC0"\nlicence_url = "https://example.org/cc0"',
        'page = "https://example.org/rain"\nkind = "noise"\nkeep = ["*/ch01.wav"]',
    ]
    for server in (first, second):
        manifest += [
            f'[[parts]]\nurl = "{server.url}"\nbytes = {len(server.body)}',
            f'sha256 = "{sha256(server.body)}"',
        ]
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "ambient_rain.toml").write_text("\n".join(manifest))
    monkeypatch.setattr(download, "DATASETS", tmp_path / "datasets")
    yield first, second
    first.close()
    second.close()


def fetch_ambient(*arguments: object):
    return CliRunner().invoke(
        verb.command, ["fetch", "--ambient", *map(str, arguments)]
    )


def test_ambient_sound_is_fetched_resumed_and_heard(places, tmp_path):
    first, second = places
    out = tmp_path / "around" / "rain"
    first.break_after = [10_000, 20_000]
    second.break_after = [5_000]
    own = out.with_name("rain.garden.archive")
    own.parent.mkdir()
    own.write_bytes(b"mine")
    done = fetch_ambient("rain", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert "Licence: CC0, https://example.org/cc0" in done.stderr
    assert [wanted is None for wanted in first.requests] == [True, False, False]
    report = json.loads(done.stdout)
    assert report["files"] == 2 and report["licence"] == "CC0"
    assert [part["sha256"] for part in report["parts"]] == [
        sha256(first.body),
        sha256(second.body),
    ]
    files = [file.relative_to(out).as_posix() for file in out.rglob("[!.]*.*")]
    assert sorted(files) == ["noise/garden/garden/ch01.wav", "noise/roof/roof/ch01.wav"]
    assert own.read_bytes() == b"mine"
    assert {*out.parent.iterdir()} == {out, own}  # no archive is left behind
    sounds = ambient.recordings(out, "train")
    assert {sound.kind for sound in sounds} == {"noise"} and len(sounds) == 2
    again = fetch_ambient("rain", "--out", out)
    assert "0 files unpacked" in again.stdout
    assert f"garden.tar.gz: already in {out}\nroof.zip: already" in again.stderr
    assert len(first.requests) == 3 and len(second.requests) == 2


def test_a_part_that_is_another_file_stops_and_leaves_the_others(places, tmp_path):
    first, second = places
    good = second.body
    second.body = good[:-1] + b"x"
    out = tmp_path / "rain"
    done = fetch_ambient("rain", "--out", out)
    assert isinstance(done.exception, KwsError) and "SHA-256" in str(done.exception)
    assert (out / "noise" / "garden").is_dir() and not (out / "noise" / "roof").exists()
    second.body = good
    assert fetch_ambient("rain", "--out", out).exit_code == 0
    assert (out / "noise" / "roof").is_dir() and len(first.requests) == 1


@pytest.mark.parametrize("kind", ["", "noise"])
def test_other_sound_in_the_folder_is_not_taken_for_the_set(kind, places, tmp_path):
    manifest = tmp_path / "datasets" / "ambient_rain.toml"
    text = manifest.read_text().replace('kind = "noise"', f'kind = "{kind}"')
    manifest.write_text("[[parts]]".join(text.split("[[parts]]")[:2]))  # the first
    out = tmp_path / "around"
    other = out / kind / "garden" / "x.wav"
    other.parent.mkdir(parents=True)
    other.write_bytes(rain(1))
    refused = fetch_ambient("rain", "--out", out).exception
    assert isinstance(refused, KwsError) and "in use" in str(refused)
    assert refused.hint == f"kws data fetch --out {out}-new ..."
    assert not places[0].requests
    other.unlink()
    other.parent.rmdir()
    for _ in range(2):
        assert fetch_ambient("rain", "--out", out).exit_code == 0
    assert len(list(out.rglob("ch01.wav"))) == len(places[0].requests) == 1


def test_archives_at_hand_are_taken_and_left(places, tmp_path):
    files = []
    for number, server in enumerate(places):
        files.append(tmp_path / f"{number}.archive")
        files[-1].write_bytes(server.body)
    given = [word for file in files for word in ("--archive", file)]
    out = tmp_path / "rain"
    for wrong in (given[:2], [*given[:3], tmp_path / "none"], [*given[:3], files[0]]):
        done = fetch_ambient("rain", *wrong, "--out", tmp_path / "wrong")
        assert isinstance(done.exception, KwsError)
    assert fetch_ambient("rain", *given, "--out", out).exit_code == 0
    assert len(list(out.rglob("ch01.wav"))) == 2
    assert all(file.is_file() for file in files) and not places[0].requests


def test_ambient_sound_is_named_and_has_its_own_addresses(tmp_path):
    done = fetch_ambient("rain", "--out", tmp_path / "x")
    assert "librispeech-dev-clean, librispeech-test-clean, musan" in str(done.exception)
    other = (["--part", "test"], ["--sha256", "0"], ["--version", "v0.01"])
    for more in (["--url", "http://x/y"], *other):
        done = fetch_ambient("musan", *more)
        assert isinstance(done.exception, KwsError)
        assert f"Received: {more[0]}" in str(done.exception)


@pytest.mark.parametrize("name", download.ambient_names())
def test_a_manifest_of_ambient_sound_says_all_that_is_needed(name):
    sound = download.ambient(name)
    assert sound.licence and sound.page.startswith("https://")
    assert sound.licence_url.startswith("https://")
    assert len({source.url for source in sound.parts}) == len(sound.parts) > 0
    for source in sound.parts:
        assert source.url.startswith("https://")
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256 or "")
    text = (download.DATASETS / f"ambient_{name}.toml").read_text()
    assert tomllib.loads(text)["author"]


def bad_zip(fault: str) -> bytes:
    if fault == "cut off":
        return zipped({"a/b.wav": rain(1)})[:-30]
    if fault == "damaged":
        body = bytearray(zipped({"a/b.wav": rain(1)}))
        body[200] ^= 0xFF
        return bytes(body)
    if fault == "encrypted":
        body = bytearray(zipped({"a/b.wav": b"x"}))
        at = body.rindex(b"PK\x01\x02")
        body[at + 8] |= 1
        return bytes(body)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed_file:
        info = zipfile.ZipInfo("../b.wav" if fault == "outside" else "a/b.wav")
        if fault == "link":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed_file.writestr(info, b"/etc/passwd")
        if fault == "twice":
            with pytest.warns(UserWarning):
                packed_file.writestr(info, b"again")
        if fault == "large":
            packed_file.writestr("a/c.wav", bytes(2000))
    return out.getvalue()


@pytest.mark.parametrize(
    "fault",
    ["cut off", "damaged", "encrypted", "outside", "link", "twice", "large"],
)
def test_a_zip_that_means_harm_is_refused_and_leaves_nothing(fault, tmp_path):
    archive = tmp_path / "bad.zip"
    archive.write_bytes(bad_zip(fault))
    limit = 1000 if fault == "large" else 1 << 20
    with pytest.raises(KwsError, match="The archive is refused"):
        download.unpack(archive, tmp_path / "out", member_bytes=limit)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]
