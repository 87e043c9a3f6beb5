"""Names, lists and tables as other systems write them.

File managers, spreadsheets and label editors disagree on letters (composed or not),
case, encodings, line ends, separators and decimal points. What is unambiguous is read;
what isn't is named.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from pathlib import Path

from kws.data.audio import say
from kws.errors import KwsError, quoted

MAX_BYTES = 64 * 1024 * 1024
_JOINERS = "\u200c\u200d"  # inside words of Persian and of Indian scripts
_JOINTS = re.compile(r"[\s_-]+")
_APOSTROPHES = str.maketrans("\u2019\u02bc\uff07`\u00b4", "'''''")
# Files that systems leave in folders by themselves.
LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "icon\r", "__macosx")


def composed(text: str) -> str:
    """One spelling of letters with marks (NFC), apostrophes and spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.translate(_APOSTROPHES).split())


def key(word: str) -> str:
    """What two spellings of one word or name have in common.

    Case, composed letters, full-width letters, and whether words are joined by a space,
    a hyphen or an underscore make no difference.

    Example:
        >>> key("Hey-Robot") == key("hey_robot") == key("hey robot")
        True
    """
    if word.startswith("_"):  # _silence_ and its like are no words
        return word
    text = composed(word)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return _JOINTS.sub("_", text)


def is_word(text: str) -> bool:
    """Whether a text can be a word: letters (of any script, with their marks) and
    digits, single spaces, hyphens or apostrophes between them, 40 at most.

    Example:
        >>> [is_word(text) for text in ("hey robot", "für", "नमस्ते", "a/b", "")]
        [True, True, True, False, False]
    """
    if not 0 < len(text) <= 40:
        return False
    before = " "
    for place, letter in enumerate(text):
        kind = unicodedata.category(letter)[0]
        if letter in " -'":
            if before in " -'" or place == len(text) - 1:
                return False
        elif kind == "M" or letter in _JOINERS:
            if before in " -'":
                return False
        elif kind not in "LN":
            return False
        before = letter
    return True


def column(text: str, width: int) -> str:
    """A text with spaces behind it, as wide as `width` letters on a terminal.

    Example:
        >>> column("ab", 5) + "|", column("你好", 5) + "|"
        ('ab   |', '你好 |')
    """
    wide = sum(
        0
        if unicodedata.combining(letter)
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in text
    )
    return text + " " * (width - wide)


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """A text file in whatever encoding it has, without its byte order mark.

    UTF-8, UTF-16 (with or without a mark), else Windows-1252, which is a guess and is
    said on stderr.

    Raises:
        KwsError: no such file, too large, or no text.
    """
    if not path.is_file():
        raise KwsError(
            f"There is no such file. Received: {str(path)!r}",
            f"ls {quoted(path.parent)}",
        )
    if path.stat().st_size > max_bytes:
        raise KwsError(
            f"The file is too large. Expected at most {max_bytes} bytes. "
            f"Received: {str(path)!r}, {path.stat().st_size} bytes",
            "Check that this is the file that was meant.",
        )
    data = path.read_bytes()
    encodings = ["utf-8-sig"]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    elif b"\0" in data:
        even, odd = data[::2].count(0), data[1::2].count(0)
        encodings = ["utf-16-le" if odd > even else "utf-16-be"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    if b"\0" not in data:
        text = data.decode("cp1252", errors="replace")
        if not re.search("[\ufffd\x01-\x08\x0e-\x1f]", text):
            say(f"{path.name}: not UTF-8; read as Windows-1252")
            return text
    raise KwsError(
        f"The file is no text that can be read. Expected UTF-8. "
        f"Received: {str(path)!r}",
        "Save it as UTF-8 text.",
    )


def entry(line: str) -> str:
    """A file's name out of a line of a list: no quotes, `/` between folders, no `./`.

    Example:
        >>> entry('"yes\\\\anna_nohash_0.wav"')
        'yes/anna_nohash_0.wav'
    """
    text = line.strip().strip("\"'").replace("\\", "/")
    text = re.sub(r"/+", "/", text)
    return re.sub(r"^(\./)+", "", text)


def table(text: str) -> list[list[str]]:
    """Rows of a table whose first line has tabs, semicolons, commas or spaces between
    its fields, in quotes or not. Empty lines are left out.

    Raises:
        ValueError: a field that is too long.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    # Audacity's second line of a label: its range of frequencies.
    lines = [line for line in lines if not line.startswith("\\")]
    if not lines:
        return []
    separator = next((mark for mark in "\t;," if mark in lines[0]), None)
    if separator is None:
        return [line.split(None, 2) for line in lines]
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        return [[cell.strip() for cell in row] for row in rows]
    except csv.Error as error:  # a field of 128 KB
        raise ValueError(f"not a table: {error}") from None


def number(text: str) -> float | None:
    """Seconds as people and programs write them: `1.5`, `1,5`, `0:01.5`; else None.

    Example:
        >>> [number(text) for text in ("1.5", "1,5", "1:02.5", "1.234,5", "yes")]
        [1.5, 1.5, 62.5, None, None]
    """
    match = re.fullmatch(
        r"(?:(\d{1,3}):)?(?:(\d{1,3}):)?([-+]?\d+(?:[.,]\d*)?(?:[eE][-+]?\d+)?)\s*s?",
        text.strip(),
    )
    if match is None:
        return None
    hours, minutes, rest = match.groups()
    if minutes is None:
        hours, minutes = None, hours
    value = float(rest.replace(",", "."))
    return value + 60 * int(minutes or 0) + 3600 * int(hours or 0)
