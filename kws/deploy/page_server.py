"""Serves a page to who knows its address: `kws live`, `kws data record`.

What is known of a request: it comes from this machine, or with a certificate from one
in its network. It may come from any page that a browser shows there, so reading and
writing need the token of the address, the host and the origin that the page has, and a
type that no form sends.
"""

from __future__ import annotations

import contextlib
import hmac
import http.server
import json
import re
import secrets
import ssl
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kws.errors import KwsError

LOOPBACK = "127.0.0.1"
TIMEOUT_S = 30
LAST_ANSWER_S = 2.0  # that the end waits for answers at most
MOST_FIELDS = 8  # of a query


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Args:
        body: All of it.
        kind: Its media type.
        status: Of HTTP.
    """

    body: bytes
    kind: str
    status: HTTPStatus = HTTPStatus.OK


def page(text: str) -> Answer:
    """An HTML page."""
    return Answer(text.encode(), "text/html; charset=utf-8")


def table(status: HTTPStatus = HTTPStatus.OK, **values: Any) -> Answer:
    """JSON."""
    return Answer(json.dumps(values).encode(), "application/json", status)


def refused(error: KwsError) -> Answer:
    """What is wrong, as JSON."""
    return table(HTTPStatus.CONFLICT, error=error.message, hint=error.hint)


def unwritable(error: OSError, where: Path) -> KwsError:
    """What to tell of a file that can't be written; `where`: what it was for."""
    return KwsError(
        f"It can't be written: {error.strerror}. Received: {error.filename or where}",
        "Make room on the disk, or allow writing there.",
    )


NOT_HERE = Answer(b"Not here.", "text/plain", HTTPStatus.NOT_FOUND)
TOO_MUCH = table(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error="Too much.", hint="")
CUT_SHORT = table(HTTPStatus.BAD_REQUEST, error="It ended too early.", hint="")


class PageServer:
    """A page, and what it reads and sends, below an address that others can't guess.

    Args:
        port: 0 takes a free one.
        again: The command that takes a free port, for a hint.
        address: This machine's, that it is reached at.
        tls: With a certificate; None: plain HTTP.
        token: Part of the address; '' draws one.

    Raises:
        KwsError: the port or the address can't be used.
    """

    # Where something may be sent: path -> its type, and how many bytes at most.
    takes: dict[str, tuple[str, int]] = {}

    def __init__(
        self,
        port: int,
        again: str,
        address: str = LOOPBACK,
        tls: ssl.SSLContext | None = None,
        token: str = "",
    ) -> None:
        # Other pages in the browser can send requests here, but not know this.
        self.token = token or secrets.token_urlsafe(16)
        self._answering, self._answered = 0, threading.Condition()
        self.scheme = "http" if tls is None else "https"
        try:
            self.http = _Server((address, port), _handler(self))
        except OSError as error:
            raise KwsError(
                f"The port can't be used: {error.strerror}. Received: {port}"
                + ("" if address == LOOPBACK else f" of {address}"),
                f"{again}   (takes a free one)",
            ) from None
        if tls is not None:
            # The handshake is the connection's own thread's: who dawdles stops nobody.
            self.http.socket = tls.wrap_socket(
                self.http.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def host(self) -> str:
        address, port = self.http.server_address[:2]
        return f"{address!s}:{port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def address(self) -> str:
        return f"{self.origin}/{self.token}/"

    def get(self, path: str, query: dict[str, str]) -> Answer | None:
        """What lies at a path below the token; None: nothing."""
        raise NotImplementedError

    def post(self, path: str, query: dict[str, str], body: bytes) -> Answer | None:
        """Take what was sent to a path of `takes`."""
        raise NotImplementedError

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Serve in the background; the page's address."""
        thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        thread.start()
        try:
            yield self.address
        finally:
            self.http.shutdown()
            thread.join()
            # Whoever asked for the end hears the answer: threads die with the process.
            with self._answered:
                self._answered.wait_for(lambda: not self._answering, LAST_ANSWER_S)
            self.http.server_close()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """While a request is answered, `serving` doesn't end."""
        with self._answered:
            self._answering += 1
        try:
            yield
        finally:
            with self._answered:
                self._answering -= 1
                self._answered.notify_all()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who goes away, or does not trust the certificate, is no fault of ours."""
        gone = (ConnectionError, TimeoutError, ssl.SSLError)
        if not isinstance(sys.exception(), gone):
            super().handle_error(request, client_address)


def _handler(server: PageServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = TIMEOUT_S

        def do_GET(self) -> None:
            with server.answering():
                path, query = self._asked()
                answer = None if path is None else server.get(path, query)
                self._say(answer or NOT_HERE)

        def do_POST(self) -> None:
            with server.answering():
                self._take()

        def _take(self) -> None:
            path, query = self._asked()
            if path not in server.takes:
                return self._say(NOT_HERE)
            kind, most = server.takes[path]
            foreign = self.headers.get("Content-Type") != kind or self.headers.get(
                "Origin"
            ) not in (None, server.origin)
            length = self.headers.get("Content-Length", "")
            if not re.fullmatch("[0-9]{1,12}", length) or int(length) > most:
                return self._say(NOT_HERE if foreign else TOO_MUCH)
            # Read even where it is refused: who is still sending hears no answer.
            body = self.rfile.read(int(length))
            if foreign:
                return self._say(NOT_HERE)
            if len(body) < int(length):
                return self._say(CUT_SHORT)
            return self._say(server.post(path, query, body) or NOT_HERE)

        def _asked(self) -> tuple[str | None, dict[str, str]]:
            """What follows the token, and the query; None where token or host are not
            the page's. (A name that someone else points here would be another host.)"""
            whole, _, text = self.path.partition("?")
            head, slash, rest = whole.lstrip("/").partition("/")
            known = hmac.compare_digest(head.encode(), server.token.encode())
            if not (known and slash and self.headers.get("Host") == server.host):
                return None, {}
            try:
                pairs = urllib.parse.parse_qsl(text, max_num_fields=MOST_FIELDS)
            except ValueError:
                return None, {}
            return rest, dict(pairs)

        def _say(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in (
                ("Content-Type", answer.kind),
                ("Content-Length", str(len(answer.body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                ("X-Frame-Options", "DENY"),
                ("Cross-Origin-Opener-Policy", "same-origin"),
                ("Permissions-Policy", "microphone=(self), serial=(self)"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are nobody's business."""

    return Handler
