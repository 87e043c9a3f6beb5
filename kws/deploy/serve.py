"""`kws live`: a run's page, served to this machine alone, which sends thresholds."""

from __future__ import annotations

import dataclasses
import json
import threading
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kws import bundle as bundles
from kws.bundle import Bundle
from kws.deploy import page_server, web
from kws.deploy.page_server import Answer, PageServer
from kws.deploy.profile import Profile
from kws.emit import common
from kws.emit import web as emitted
from kws.errors import KwsError, quoted
from kws.recipe import check_detector

MAX_BODY = 64 * 1024


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


class Server(PageServer):
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

    takes = {emitted.CHANGES: ("application/json", MAX_BODY)}

    def __init__(
        self, run: str | Path, port: int = 0, measured: Profile | None = None
    ) -> None:
        self.run, self.measured = run, measured
        self.saving = threading.Lock()
        self.page()  # what is wrong with the run is said before a browser opens
        super().__init__(port, f"kws live {quoted(run)}")

    def get(self, path: str, query: dict[str, str]) -> Answer | None:
        if path != "":
            return None
        try:
            return page_server.page(self.page())
        except KwsError as error:  # the run has been changed, or is gone
            return _instead(error)
        except OSError as error:  # its module is built and kept anew
            return _instead(page_server.unwritable(error, Path(self.run)))

    def post(self, path: str, query: dict[str, str], body: bytes) -> Answer | None:
        try:
            return page_server.table(hash=self.save(body))
        except KwsError as error:
            return page_server.refused(error)
        except OSError as error:
            return page_server.refused(page_server.unwritable(error, Path(self.run)))

    def page(self) -> str:
        """The page of the run as it is now."""
        bundle = bundles.load(self.run)
        known = web.facts(self.measured, bundle) if self.measured else {}
        kept = ""
        if bundle.shipped:
            name = bundle.path.name
            kept = (
                f"{name} came with the package and stays as it is. For one of your "
                f"own: {bundle.copy_command} && "
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
            expected, given = str(table["hash"]), table["word_thresholds"]
            if not all(type(level) in (int, float) for level in given):
                raise TypeError
            levels = [float(level) for level in given]
        except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
            raise KwsError(
                "Expected JSON with hash and word_thresholds.", "Load the page again."
            ) from None
        with self.saving:
            bundle = bundles.load(self.run)
            if bundle.shipped:
                raise KwsError(
                    f"A shipped run stays as it is. Received: {bundle.path.name}",
                    bundle.copy_command,
                )
            if bundle.hash[:16] != expected:
                raise KwsError(
                    "The run has changed since the page was loaded. Expected hash "
                    f"{expected}. Received: {bundle.hash[:16]}",
                    "Load the page again.",
                )
            changed = with_thresholds(bundle, levels)
            bundles.save(changed)
            return changed.hash[:16]


def _instead(error: KwsError) -> Answer:
    """What is said where the page should be."""
    said = f"{error.message}\n{error.hint}\n".encode(errors="replace")
    return Answer(said, "text/plain; charset=utf-8", HTTPStatus.INTERNAL_SERVER_ERROR)
