"""`kws data record`: the page that records, for this machine or a phone, and the same
in a terminal. What is kept of a recording, kws/data/record.py decides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import ipaddress
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from kws.data.audio import SAMPLE_RATE
from kws.data.record import RATES, ROOM, ROOM_S, Prompt, Session, Verdict
from kws.deploy import live, page_server
from kws.deploy.page_server import LOOPBACK, Answer, PageServer
from kws.emit import web
from kws.errors import KwsError, quoted

MAX_BODY = ROOM_S[1] * RATES[1] * 2  # the room, in 16-bit samples
MAX_WORDS = 4096  # bytes of everything that is not sound
SAMPLES = "application/octet-stream"
MOST_SPEAKERS = 100  # that the page offers
# Of the address that is typed into a phone: without letters that look alike.
LETTERS, DIGITS = "abcdefghjkmnpqrstuvwxyz23456789", 10
CERTIFICATE_DAYS = 7
SETTLE_S = 0.3  # a microphone's first moments


class Recorder(PageServer):
    """Serves the page that records, and takes recordings from it.

    Args:
        session: Where they go.
        speaker: Who speaks, as in the files' names; '': the page asks.
        then: Gives the command to go on with, when recording has ended.
        port: 0 takes a free one.
        phone: This machine's address in its network: the page is served there, with a
            certificate of its own. None: on the loopback.

    Raises:
        KwsError: the port or the address can't be used; no openssl.

    Example:
        >>> from kws.data.record import prompts
        >>> session = Session(Path("mine"), prompts(["go"]))
        >>> with Recorder(session, then=lambda: "kws --help").serving() as address:
        ...     address.startswith("http://127.0.0.1:")
        True
    """

    takes = {
        "speaker": ("application/json", MAX_WORDS),
        "take": (SAMPLES, MAX_BODY),
        "remove": ("application/json", MAX_WORDS),
        "finish": ("application/json", MAX_WORDS),
    }

    def __init__(
        self,
        session: Session,
        speaker: str = "",
        then: Callable[[], str] = str,
        port: int = 0,
        phone: str | None = None,
    ) -> None:
        self.session, self.speaker, self.then = session, speaker, then
        self.finished = threading.Event()
        self.fingerprint = ""
        again = f'kws data record "{session.asked[0].text}" --out {quoted(session.out)}'
        if phone is None:
            super().__init__(port, again)
            return
        tls, self.fingerprint = certificate(phone)
        token = "".join(secrets.choice(LETTERS) for _ in range(DIGITS))
        super().__init__(port, f"{again} --phone", phone, tls, token)

    def get(self, path: str, query: dict[str, str]) -> Answer | None:
        if path == "":
            return page_server.page(web.recorder(self._facts()))
        if path == "state":
            who, skipped = query.get("speaker", ""), query.get("skip", "").split(",")
            following = self.session.following(
                who,
                _number(query, "now"),
                {_number({"skip": text}, "skip") for text in skipped},
            )
            return page_server.table(done=self.session.done(who), next=following)
        if path == "clip":
            try:
                sound = self.session.clip(_number(query, "clip"))
            except (KwsError, OSError):
                return None
            return Answer(sound, "audio/wav")
        return None

    def post(self, path: str, query: dict[str, str], body: bytes) -> Answer | None:
        try:
            if path == "speaker":
                name, hidden = query.get("name", ""), query.get("hidden") != "no"
                who = self.session.join(name, hidden)
                return page_server.table(speaker=who, done=self.session.done(who))
            if path == "take":
                verdict = self._take(query, body)
                return page_server.table(**dataclasses.asdict(verdict))
            if path == "remove":
                return page_server.table(
                    done=self.session.remove(_number(query, "clip"))
                )
        except KwsError as error:
            return page_server.refused(error)
        except OSError as error:
            return page_server.refused(page_server.unwritable(error, self.session.out))
        self.finished.set()
        return page_server.table(next=self.then())

    def _take(self, query: dict[str, str], body: bytes) -> Verdict:
        pcm = np.frombuffer(body[: len(body) // 2 * 2], "<i2").astype(np.int16)
        return self.session.add(
            query.get("speaker", ""),
            _number(query, "prompt"),
            pcm,
            _number(query, "rate"),
        )

    def _facts(self) -> dict[str, Any]:
        """What the page has to know."""
        return {
            "out": str(self.session.out),
            "prompts": [
                {
                    "kind": prompt.kind,
                    "text": prompt.text,
                    "folder": prompt.folder,
                    "wanted": prompt.wanted,
                    "seconds": prompt.seconds,
                }
                for prompt in self.session.asked
            ],
            "clip_seconds": self.session.clip_seconds,
            "speaker": self.speaker,
            "speakers": self.session.speakers()[:MOST_SPEAKERS],
        }


def _number(query: dict[str, str], key: str) -> int:
    """A number of a query; -1, which nothing has, where it is none."""
    text = query.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def network_address(given: str | None = None) -> str:
    """This machine's address in its network (IPv4).

    Args:
        given: The one to take, where there are several; None: of the default route.

    Raises:
        KwsError: it is in no network, or what is given is no address.
    """
    hint = "--address 192.168.1.5   (this machine's, see: ip address)"
    if given is not None:
        try:
            return str(ipaddress.IPv4Address(given))
        except ValueError:
            raise KwsError(
                f"Not an IPv4 address of this machine. Received: {given!r}", hint
            ) from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # asks for the way; nothing is sent
            found = str(probe.getsockname()[0])
        except OSError:
            found = LOOPBACK
    if ipaddress.IPv4Address(found).is_loopback:
        raise KwsError(
            "This machine is in no network that a phone could be in. Expected an "
            "address in one. Received: none",
            hint,
        )
    return found


def certificate(address: str) -> tuple[ssl.SSLContext, str]:
    """A self-signed certificate for an address, made by the openssl command.

    A browser gives a microphone to a page from another machine over HTTPS alone. The
    key is new each time and kept nowhere.

    Returns:
        The context of a server with it, and its SHA-256 fingerprint (`AB:CD:...`).

    Raises:
        KwsError: no openssl, or it fails.
    """
    command = shutil.which("openssl")
    if command is None:
        raise KwsError(
            "A certificate for the phone is made by the command openssl, which is not "
            "installed.",
            "apt-get install openssl   (macOS: brew install openssl)",
        )
    with tempfile.TemporaryDirectory() as name:  # for this user alone
        key, public = Path(name) / "key.pem", Path(name) / "certificate.pem"
        arguments = [
            command,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-sha256",
        ]
        arguments += ["-days", str(CERTIFICATE_DAYS), "-subj", "/CN=kws data record"]
        arguments += ["-addext", f"subjectAltName=IP:{address}"]
        arguments += ["-keyout", str(key), "-out", str(public)]
        made = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if made.returncode != 0:
            said = made.stderr.decode(errors="replace").strip().splitlines()
            raise KwsError(
                f"openssl made no certificate: {(said or ['no reason given'])[-1]}",
                "openssl version   (1.1.1 or newer is needed)",
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(public, key)
        der = ssl.PEM_cert_to_DER_cert(public.read_text("ascii"))
    digest = hashlib.sha256(der).hexdigest().upper()
    pairs = (digest[i : i + 2] for i in range(0, len(digest), 2))
    return context, ":".join(pairs)


def invitation(server: Recorder) -> str:
    """What a person at the terminal has to know of the page."""
    lines = [f"{server.address}   (Ctrl-C ends it)"]
    if server.fingerprint:
        lines = [
            *_code(server.address),
            *lines,
            "Open it on a phone in the same network. The browser will warn: the",
            "certificate was made here just now. Its SHA-256 fingerprint is",
            *(server.fingerprint[i : i + 48] for i in (0, 48)),
            "Who knows the address can record into the folder, and hear what is",
            "recorded now, until this ends.",
        ]
    return "\n".join(lines)


def _code(address: str) -> list[str]:
    """A QR code for a terminal, where segno is installed."""
    try:
        import segno
    except ImportError:
        return []
    drawn = io.StringIO()
    segno.make(address, error="l").terminal(drawn, compact=True, border=2)
    return drawn.getvalue().splitlines()


def at_terminal(session: Session, speaker: str, say: Callable[[str], None]) -> None:
    """`terminal` with this machine's microphone and whoever is at it.

    Raises:
        KwsError: sounddevice, its library or a microphone is missing; nobody can
            answer.
    """
    hint = f'kws data record "{session.asked[0].text}" --out {quoted(session.out)}'
    sounddevice = live.portaudio(hint)
    if not sys.stdin.isatty():
        raise KwsError(
            "Recording in a terminal needs somebody to press Enter. Expected a "
            "terminal. Received: standard input from elsewhere",
            hint,
        )

    def play(pcm: np.ndarray) -> None:
        sounddevice.play(pcm, SAMPLE_RATE, blocking=True)

    def ask(question: str) -> str:
        try:
            return input(f"{question} ")
        except EOFError:
            return "q"

    with contextlib.suppress(KeyboardInterrupt):
        if not speaker:
            name = ask(
                "A name for you, as it will stand in the files' names (Enter: digits "
                "are drawn):"
            )
            speaker = session.join(name, hidden=False)
            say(f"Files are called {speaker}_nohash_0.wav and so on.")
        terminal(session, speaker, lambda: live.microphone(hint), ask, say, play)


Microphone = Callable[[], AbstractContextManager[Iterator[np.ndarray]]]


def terminal(
    session: Session,
    speaker: str,
    microphone: Microphone,
    ask: Callable[[str], str],
    say: Callable[[str], None],
    play: Callable[[np.ndarray], None],
) -> None:
    """Record in a terminal until all is there, or the person stops.

    Args:
        session: Where recordings go.
        speaker: From `Session.join`.
        microphone: Opens it: int16 blocks at 16 kHz; an empty one where some was lost.
        ask: Asks for a line.
        say: Prints one.
        play: Plays int16 samples at 16 kHz.
    """
    skipped: set[int] = set()
    last: Verdict | None = None
    place = -1
    while True:
        chosen = session.following(speaker, place, skipped)
        if chosen is None:
            return
        place = chosen
        prompt, done = session.asked[place], session.done(speaker)[place]
        what = told(prompt)
        question = f"{what} ({done + 1} of {prompt.wanted}) [Enter, or p r s q]"
        answer = ask(question).strip().lower()[:1]
        if answer == "q":
            return
        if answer == "s":
            skipped.add(place)
            continue
        if answer in ("p", "r") and last is None:
            say("  Nothing was kept yet.")
            continue
        if answer == "p" and last is not None:
            play(np.frombuffer(session.clip(last.clip)[44:], "<i2").astype(np.int16))
            continue
        if answer == "r" and last is not None:
            session.remove(last.clip)
            say(f"  {last.name} is deleted.")
            last = None
            continue
        if answer:
            say(
                "  Enter: record. p: play the last one, r: delete it, s: skip, q: stop."
            )
            continue
        pcm = _recorded(microphone, prompt.seconds, say)
        if pcm is None:
            say("  Not kept: sound was lost on its way. End other programs here.")
            continue
        verdict = session.add(speaker, place, pcm, SAMPLE_RATE)
        bar = meter(verdict.level_db)
        if verdict.problem:
            say(f"  {bar}  Not kept: {verdict.problem}. {verdict.advice}")
        else:
            say(f"  {bar}  {verdict.name}")
            last = verdict


def told(prompt: Prompt) -> str:
    """What a person is asked to do."""
    if prompt.kind != ROOM:
        return f'Say "{prompt.text}"'
    if prompt.text == "quiet":
        return f"Say nothing for {prompt.seconds:g} s: the room as it is"
    return f"Say nothing for {prompt.seconds:g} s, but move about, type, run water"


def meter(level_db: float, width: int = 20) -> str:
    """A level as a bar: 0 to -60 dB of full scale.

    Example:
        >>> meter(-30.0, 10)
        '[#####     ] -30 dB'
    """
    full = round(width * min(max(1 + level_db / 60, 0), 1))
    return f"[{'#' * full:<{width}}] {level_db:.0f} dB"


def _recorded(
    microphone: Microphone, seconds: float, say: Callable[[str], None]
) -> np.ndarray | None:
    """int16 [seconds * 16000]; None where sound was lost in between."""
    parts: list[np.ndarray] = []
    settle, count = round(SETTLE_S * SAMPLE_RATE), round(seconds * SAMPLE_RATE)
    lost = False
    with microphone() as blocks:
        told_so = False
        for block in blocks:
            lost |= settle <= 0 and not len(block)
            if settle > 0:
                settle -= len(block)
                continue
            if not told_so:
                say("  Now ...")
                told_so = True
            parts.append(block)
            if sum(map(len, parts)) >= count:
                break
    return None if lost else np.concatenate(parts)[:count]
