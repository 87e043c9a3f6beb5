"""`kws live`: a run's page, served to this machine alone, and the thresholds it sends.

What is known of a request: it comes from this machine. It may come from any page that a
browser shows here, so reading and writing need the address's token, the host and the
origin that the page has itself, and a type that no form sends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import http.server
import json
import secrets
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kws import bundle as bundles
from kws.bundle import Bundle
from kws.deploy import web
from kws.deploy.profile import Profile
from kws.emit import common
from kws.emit import web as emitted
from kws.errors import KwsError
from kws.recipe import check_detector

LOOPBACK = "127.0.0.1"
MAX_BODY = 64 * 1024
TIMEOUT_S = 30


def with_thresholds(bundle: Bundle, levels: list[float]) -> Bundle:
    """The bundle with a threshold of its own for each word, in memory.

    Raises:
        KwsError: a level that is out of its range, or not one for each word.
    """
    words = bundle.labels[common.first_word(bundle.labels) :]
    if len(levels) != len(words):
        raise KwsError(
            f"Expected a threshold for each of {len(words)} words. "
            f"Received: {len(levels)}",
            "Load the page again.",
        )
    detector = dataclasses.replace(
        bundle.recipe.detector, word_thresholds=tuple(levels)
    )
    recipe = dataclasses.replace(bundle.recipe, detector=detector)
    check_detector(recipe, bundle.path / "recipe.toml")
    return dataclasses.replace(bundle, recipe=recipe)


class Server:
    """Serves a run's page on this machine alone, and takes thresholds from it.

    Args:
        run: Folder or shipped name.
        port: 0 takes a free one.
        measured: What is known of the run on a board; None: nothing.

    Raises:
        KwsError: see `web.module`; or the port is taken.

    Example:
        >>> with Server("kwt-tiny").serving() as address:
        ...     address.startswith("http://127.0.0.1:")
        True
    """

    def __init__(
        self, run: str | Path, port: int = 0, measured: Profile | None = None
    ) -> None:
        self.run, self.measured = run, measured
        # Other pages in the browser can send requests here, but not know this.
        self.token = secrets.token_urlsafe(16)
        self.saving = threading.Lock()
        self.page()  # what is wrong with the run is said before a browser opens
        try:
            self.http = http.server.ThreadingHTTPServer(
                (LOOPBACK, port), _handler(self)
            )
        except OSError as error:
            raise KwsError(
                f"The port can't be used: {error.strerror}. Received: {port}",
                f"kws live {run}   (takes a free one)",
            ) from None
        self.http.daemon_threads = True

    @property
    def host(self) -> str:
        return f"{LOOPBACK}:{self.http.server_address[1]}"

    @property
    def address(self) -> str:
        return f"http://{self.host}/{self.token}/"

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
            self.http.server_close()

    def page(self) -> str:
        """The page of the run as it is now."""
        bundle = bundles.load(self.run)
        known = web.facts(self.measured, bundle) if self.measured else {}
        kept = ""
        if bundle.shipped:
            name = bundle.path.name
            kept = (
                f"{name} came with the package and stays as it is. For one of your "
                f"own: mkdir -p runs && cp -r {bundle.path} runs/ && "
                f"kws live runs/{name}"
            )
        module = web.module(bundle)
        return emitted.page(bundle, module, known, not bundle.shipped, kept)

    def save(self, body: bytes) -> str:
        """Write thresholds that a page sends into the run. Returns its new hash.

        Args:
            body: JSON: `hash`, of the run that the page is of, and `word_thresholds`.

        Raises:
            KwsError: anything else; the run has changed since, or is a shipped one.
        """
        try:
            table: Any = json.loads(body)
            expected, levels = str(table["hash"]), table["word_thresholds"]
            if not all(type(level) in (int, float) for level in levels):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise KwsError(
                "Expected JSON with hash and word_thresholds.", "Load the page again."
            ) from None
        with self.saving:
            bundle = bundles.load(self.run)
            if bundle.shipped:
                raise KwsError(
                    f"A shipped run stays as it is. Received: {bundle.path.name}",
                    f"cp -r {bundle.path} runs/",
                )
            if bundle.hash[:16] != expected:
                raise KwsError(
                    "The run has changed since the page was loaded. Expected hash "
                    f"{expected}. Received: {bundle.hash[:16]}",
                    "Load the page again.",
                )
            changed = with_thresholds(bundle, [float(level) for level in levels])
            bundles.save(changed)
            return changed.hash[:16]


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = TIMEOUT_S

        def do_GET(self) -> None:
            if self._path() != "":
                return self._say(HTTPStatus.NOT_FOUND, b"Not here.", "text/plain")
            try:
                text = server.page().encode()
            except KwsError as error:  # the run has been changed, or is gone
                said = f"{error.message}\n{error.hint}\n".encode(errors="replace")
                kind = "text/plain; charset=utf-8"
                return self._say(HTTPStatus.INTERNAL_SERVER_ERROR, said, kind)
            return self._say(HTTPStatus.OK, text, "text/html; charset=utf-8")

        def do_POST(self) -> None:
            if (
                self._path() != emitted.CHANGES
                or self.headers.get("Content-Type") != "application/json"
                or self.headers.get("Origin") not in (None, f"http://{server.host}")
            ):
                return self._say(HTTPStatus.NOT_FOUND, b"Not here.", "text/plain")
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit()) or int(length) > MAX_BODY:
                return self._answer(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error="Too much.", hint=""
                )
            try:
                made = server.save(self.rfile.read(int(length)))
            except KwsError as error:
                return self._answer(
                    HTTPStatus.CONFLICT, error=error.message, hint=error.hint
                )
            return self._answer(HTTPStatus.OK, hash=made)

        def _path(self) -> str | None:
            """What follows the token; None where token or host are not the page's. (A
            name that someone else points here would be another host.)"""
            head, slash, rest = self.path.lstrip("/").partition("/")
            known = hmac.compare_digest(head.encode(), server.token.encode())
            here = self.headers.get("Host") == server.host
            return rest if known and slash and here else None

        def _answer(self, status: HTTPStatus, **table: str) -> None:
            self._say(status, json.dumps(table).encode(), "application/json")

        def _say(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(status)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                ("X-Frame-Options", "DENY"),
                ("Cross-Origin-Opener-Policy", "same-origin"),
                ("Permissions-Policy", "microphone=(self), serial=(self)"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are nobody's business."""

    return Handler
