"""The one exception that a user sees: what is wrong, and what to type next."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from typing import Any

from kws.paths import CHECKOUT


class KwsError(Exception):
    """A mistake that the user can mend, told in one message.

    Args:
        message: What is wrong, what was expected, what was received.
        hint: A command or an edit that gets the user further.
        exit_code: 2 for bad input (the default), 1 where the command ran but a
            check failed.

    Example:
        >>> raise KwsError("Not a WAV file. Received: 'a.txt'", "kws data verify DIR")
        Traceback (most recent call last):
        ...
        kws.errors.KwsError: Not a WAV file. Received: 'a.txt'
    """

    def __init__(self, message: str, hint: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come home from other processes whole, subclasses as what they are."""
        return _again, (type(self), self.message, self.hint, self.exit_code)


def _again(kind: type[KwsError], message: str, hint: str, exit_code: int) -> KwsError:
    error = kind.__new__(kind)
    KwsError.__init__(error, message, hint, exit_code)
    return error


def no_such(what: str, received: str, expected: Sequence[str], hint: str) -> KwsError:
    """The error for a name that is not in a list, with the one that may be meant.

    Example:
        >>> print(no_such("board", "pcio", ["pico"], "kws boards"))
        No such board. Did you mean 'pico'? Expected one of pico. Received: 'pcio'
    """
    close = difflib.get_close_matches(received, expected, n=1)
    maybe = f" Did you mean {close[0]!r}?" if close else ""
    return KwsError(
        f"No such {what}.{maybe} Expected one of {', '.join(expected)}. "
        f"Received: {received!r}",
        hint,
    )


def quoted(name: object) -> str:
    """A path or a name within a hint, as it can be typed.

    Example:
        >>> f"kws eval {quoted('my run')}"
        "kws eval 'my run'"
    """
    return shlex.quote(str(name))


class CheckFailed(KwsError):
    """The command ran, and a check that it makes did not hold (exit code 1)."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint, exit_code=1)


class MissingExtra(KwsError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the Python package {package!r}, which is not installed.",
            pip_install(extra),
        )


def need(package: str, purpose: str) -> None:
    """Raise MissingExtra unless a package of the `train` extra can be imported."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise MissingExtra(package.replace("_", "-"), "train", purpose)


def pip_install(extra: str = "", otherwise: str = "") -> str:
    """The command that installs kws again, or adds what an extra brings.

    Args:
        extra: Its name; empty: kws itself.
        otherwise: What could be done instead.

    Example:
        >>> pip_install("flash")
        "pip install -e '.[flash]'   (in the repository)"
        >>> pip_install("voices", "or: --voices espeak")
        "pip install -e '.[voices]'   (in the repository; or: --voices espeak)"
    """
    if CHECKOUT is not None:
        what = f"'.[{extra}]'" if extra else "."
        line, remark = f"pip install -e {what}", "in the repository"
    elif extra:
        line, remark = f"pip install 'kws[{extra}]'", ""
    else:
        line = "pip install --force-reinstall kws-*.whl"
        remark = "the wheel that it came from"
    remarks = "; ".join(part for part in (remark, otherwise) if part)
    return f"{line}   ({remarks})" if remarks else line
