"""Fetch a data set: resume, check, unpack. What arrives is not trusted.

Data sets are files in datasets/: versions of Speech Commands, and ambient sound.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import hashlib
import json
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO, Any

from kws.bundle import write_atomic
from kws.data.archives import file_key
from kws.data.splits import some
from kws.errors import KwsError, no_such, quoted
from kws.lock import locked
from kws.paths import DATASETS, user_cache

MAX_ARCHIVE_BYTES = 8 << 30
MAX_UNPACKED_BYTES = 16 << 30
MAX_MEMBER_BYTES = 64 << 20
MAX_RECORDING_BYTES = 1 << 30  # a member of ambient sound: hours in one file
MAX_MEMBERS = 1_000_000
MAX_HEADER_BYTES = 1 << 20
ATTEMPTS = 6
TIMEOUT_S = 30
MARK = ".fetched"  # in a folder: what was unpacked into it, by address and SHA-256

Progress = Callable[[str, int, int], None]
"""Called with (what is done, bytes done, bytes of all or 0 where unknown)."""


@dataclass(frozen=True)
class Source:
    """Something to download.

    Args:
        url: http or https.
        sha256: 64 hex digits, or None where none is known.
        size: Bytes, or None where not known.
    """

    url: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Ambient:
    """Ambient sound to download.

    Args:
        name: For people.
        licence: Of the recordings.
        licence_url: Where its text is.
        page: Where the data set is described.
        kind: Folder that everything goes into; "": the archive's folders are kinds.
        keep: Patterns of members that are unpacked; (): all.
        parts: Archives, .tar.gz or .zip.
    """

    name: str
    licence: str
    licence_url: str
    page: str
    kind: str
    keep: tuple[str, ...]
    parts: tuple[Source, ...]


class Refused(KwsError):
    """An archive that is broken, or means harm."""


def ambient_names() -> list[str]:
    """Ambient sound with a manifest in datasets/."""
    return sorted(f.stem.removeprefix("ambient_") for f in DATASETS.glob("ambient_*"))


def ambient(name: str) -> Ambient:
    """What datasets/ says of ambient sound.

    Raises:
        KwsError: nothing of that name.
    """
    if name not in ambient_names():
        raise no_such(
            "ambient sound", name, ambient_names(), "kws data fetch --ambient musan"
        )
    table = tomllib.loads(
        (DATASETS / f"ambient_{name}.toml").read_text(encoding="utf-8")
    )
    return Ambient(
        table["name"],
        table["licence"],
        table["licence_url"],
        table["page"],
        table["kind"],
        tuple(table.get("keep", ())),
        tuple(
            Source(part["url"], part.get("sha256"), part.get("bytes"))
            for part in table["parts"]
        ),
    )


def versions() -> list[str]:
    """Versions of Speech Commands with a manifest in datasets/."""
    stem = "speech_commands_"
    return sorted(f.stem.removeprefix(stem) for f in DATASETS.glob(f"{stem}*.toml"))


def source(version: str, part: str = "clips") -> Source | None:
    """Where `part` (`clips` or `test`) of a version is; None where it has none.

    Raises:
        KwsError: no such version.
    """
    if version not in versions():
        raise KwsError(
            f"No such version. Expected {' or '.join(versions()) or 'a manifest'} "
            f"(a file in datasets/). Received: {version!r}",
            "kws data fetch --version v0.02",
        )
    path = DATASETS / f"speech_commands_{version}.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8")).get(part)
    if table is None:
        return None
    return Source(table["url"], table.get("sha256"), table.get("bytes"))


def download(
    source: Source, to: Path, progress: Progress | None = None, room: int = 1
) -> str:
    """Download to the file `to`, resuming what an earlier call left in `to`.part.

    A connection that breaks is taken up again, 6 times in all, with pauses. A server
    that can't resume, or whose file has changed, starts from the beginning. Where `to`
    is there and has the checksum, nothing is downloaded; where none is known, the
    server is asked whether it is still that file. `discard` removes what is left.

    Args:
        source: What to download.
        to: The file.
        progress: See `Progress`.
        room: How many times its size the disk must take: 2, say, where it is unpacked
            there too.

    Returns:
        SHA-256 of the file, which has been compared if the source has one.

    Raises:
        KwsError: not an http address, no answer, too large, no room on the disk, wrong
            size or checksum.
    """
    if not _is_address(source.url):
        raise KwsError(
            f"Only http and https addresses can be fetched. Received: {source.url!r}",
            "kws data fetch --url https://HOST/FILE.tar.gz ...",
        )
    to.parent.mkdir(parents=True, exist_ok=True)
    part, note = _parts(to)
    if to.is_file():
        if source.sha256 is not None and _sha256(to) == source.sha256:
            return source.sha256
        to.replace(part)
    limit = source.size if source.size is not None else MAX_ARCHIVE_BYTES
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(8.0, 0.25 * 2**attempt))
        try:
            problem = _attempt(source, part, note, limit, room, progress)
        except _BrokenOff as error:
            problem = str(error)
        if not problem:
            break
    if problem:
        raise KwsError(
            f"The download is not complete: {problem}. Expected the whole file. "
            f"Received: {_size(part)} bytes of {source.url}",
            "Run the same command again: it goes on where it stopped.",
        )
    received = _sha256(part)
    size = _size(part)
    if source.size not in (None, size) or source.sha256 not in (None, received):
        discard(to)
        expected = [] if source.size is None else [f"{source.size} bytes"]
        expected += [] if source.sha256 is None else [f"SHA-256 {source.sha256}"]
        raise KwsError(
            "The file is not the one that was published. Expected "
            f"{', '.join(expected)}. Received: {size} bytes, {received}",
            "Run it again; if that fails too, the file has changed at its source.",
        )
    part.replace(to)
    return received


def discard(to: Path) -> None:
    """Remove what `download` left: the file, or the beginning of one."""
    for path in (to, *_parts(to)):
        path.unlink(missing_ok=True)


def _parts(to: Path) -> tuple[Path, Path]:
    """What was received of a file, and a note of where it is from."""
    return to.with_name(f"{to.name}.part"), to.with_name(f"{to.name}.part.json")


class _BrokenOff(Exception):
    """A connection that is worth another try; errors of the disk are none."""


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        known = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:  # a port, a host, or an address in brackets, that is none
        return False
    return known and bool(host) and re.fullmatch("[!-~]+", url) is not None


def _attempt(
    source: Source,
    part: Path,
    note: Path,
    limit: int,
    room: int,
    progress: Progress | None,
) -> str:
    """One connection. Returns what is wrong, empty when the file is complete."""
    have, tag = _resumable(source, part, note)
    request = urllib.request.Request(source.url, headers={"User-Agent": "kws"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        problem = f"the server answered {error.code} {error.reason}"
        if error.code >= 500 or error.code in (408, 429):
            raise _BrokenOff(problem) from None
        if error.code != 416:
            raise KwsError(
                f"There is no file to fetch: {problem}. Received: {source.url}",
                f"curl -I {quoted(source.url)}   (what is there; a file at hand: "
                "--archive FILE)",
            ) from None
        # Nothing after `have`: complete, or another file. The checksum will tell
        # where there is one; else begin again.
        place = error.headers.get("Content-Range", "")
        if have == source.size or place == f"bytes */{have}":
            return ""
        part.unlink(missing_ok=True)
        return "the server has less than was received before"
    except (OSError, HTTPException) as error:
        raise _BrokenOff(f"the connection broke ({error})") from None
    with answer:
        start = 0
        if answer.status == 206:
            match = re.match(
                r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "")
            )
            if not match or int(match[1]) != have:
                part.unlink(missing_ok=True)
                return "the server resumed at another place"
            start = have
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        if total is not None and total > limit:
            raise _too_large(source, total, limit)
        if total is not None:
            _check_room(part, room * total - _size(part))
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        write_atomic(note, json.dumps({"url": source.url, "tag": tag}).encode())
        done = start
        try:
            with part.open("r+b" if start else "wb") as out:
                out.seek(start)
                out.truncate()
                while block := _read(answer):
                    done += len(block)
                    if done > limit:
                        raise _too_large(source, done, limit)
                    out.write(block)
                    if progress is not None:
                        progress("received", done, total or 0)
        except OSError as error:  # of the file
            error.filename = error.filename or str(part)
            raise
    if total is not None and done < total:
        return f"the connection ended {total - done} bytes early"
    return ""


def _read(answer: HTTPResponse) -> bytes:
    try:
        return answer.read(1 << 20)
    except (OSError, HTTPException) as error:
        raise _BrokenOff(f"the connection broke ({error})") from None


def _check_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise KwsError(
            f"There is not enough room on the disk. Expected at least {needed:,} bytes "
            f"for the archive and what is in it. Received: {free:,} in {part.parent}",
            "kws data fetch --out DIR ...   (on a disk with more room)",
        )


def _resumable(source: Source, part: Path, note: Path) -> tuple[int, str]:
    """Bytes that can be kept of an earlier attempt, and the server's tag for them.

    Without a tag nothing is kept: the file at the address may have changed."""
    try:
        record = json.loads(note.read_text(encoding="utf-8"))
        if record["url"] == source.url and record["tag"] and part.is_file():
            tag = str(record["tag"])
            # A weak tag doesn't vouch for bytes.
            return (0, "") if tag.startswith("W/") else (_size(part), tag)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, ""


def unpack(
    archive: Path,
    out: Path,
    progress: Progress | None = None,
    keep: Sequence[str] = (),
    member_bytes: int = MAX_MEMBER_BYTES,
    mark: dict[str, str] | None = None,
    beside: Sequence[str] = (),
) -> int:
    """Unpack a .tar.gz or a .zip into a new or empty folder, whole or not at all.

    Only files and folders are accepted; anything that would end up outside, links,
    devices, names given twice, and sizes beyond reason are refused.

    Args:
        archive: The file.
        out: The folder.
        progress: See `Progress`.
        keep: Patterns of members to unpack; (): all.
        member_bytes: The most that a member may have.
        mark: What `is_there` is to know it by later.
        beside: See `check_free`.

    Returns:
        Number of files.

    Raises:
        KwsError: refused, broken, or the folder is in use.
    """
    _clear(out)
    check_free(out, out, beside)
    out = out.resolve()
    # Within a folder that is there: it may be a disk of its own.
    within = out if out.is_dir() else out.parent
    within.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=within, prefix=_building(out)))
    try:
        with archive.open("rb") as raw:
            zipped = raw.read(4) == b"PK\x03\x04"
            raw.seek(0)
            members = _zipped(raw, archive) if zipped else _tarred(raw, archive)
            count = _unpack(
                members, raw, archive, building, keep, member_bytes, progress
            )
        root = building
        inside = list(building.iterdir())
        if len(inside) == 1 and any(p.is_dir() for p in inside[0].glob("*")):
            root = inside[0]  # everything in one folder of the archive
        if mark is not None:
            (root / MARK).write_text(json.dumps(mark), encoding="utf-8")
        if out.is_dir():
            _move(root, out, archive)
        else:
            root.chmod(0o755)
            root.replace(out)
    except (
        tarfile.TarError,
        gzip.BadGzipFile,
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        # Of zipfile: names that are no text, or empty; places that are none.
        ValueError,
        IndexError,
        OverflowError,
    ) as error:
        raise _refused(archive, f"it is broken or cut off ({error})") from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # the system's own
            raise
        # What bzip2 can't read; a place before the archive's beginning.
        raise _refused(archive, f"it is broken ({error})") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return count


def _building(out: Path) -> str:
    """How the names of folders begin in which something is unpacked for `out`."""
    return f".{out.resolve().name}.unpacking-"


def _clear(out: Path) -> None:
    """Remove what a process that was killed had unpacked."""
    for within in (out.resolve().parent, out):
        for path in within.iterdir() if within.is_dir() else ():
            if path.name.startswith(_building(out)):
                shutil.rmtree(path)


def _move(root: Path, out: Path, archive: Path) -> None:
    """All that is in a folder into one that is there, the mark last."""
    inside = sorted(root.iterdir(), key=lambda path: path.name == MARK)
    if twice := [path.name for path in inside if (out / path.name).exists()]:
        raise _refused(archive, f"{twice[0]!r} is in the folder already")
    for path in inside:
        path.rename(out / path.name)


@dataclass(frozen=True)
class _Member:
    """What an archive holds: `open` is called while it is the current one."""

    name: str
    size: int
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes] | None]


def _tarred(raw: IO[bytes], archive: Path) -> Iterator[_Member]:
    with gzip.open(raw) as plain:
        metered: Any = _Metered(plain, archive)  # only read() is called
        tar = tarfile.TarFile.open(fileobj=metered, mode="r|")  # noqa: SIM115
        for info in tar:
            metered.left = MAX_HEADER_BYTES + (info.size if info.isreg() else 0)
            yield _Member(
                info.name,
                info.size,
                info.isdir(),
                info.isreg() and not info.issparse(),
                functools.partial(tar.extractfile, info),
            )
        metered.left = MAX_HEADER_BYTES
        while metered.read(1 << 16):
            pass  # to the end, where gzip keeps its checksum


def _zipped(raw: IO[bytes], archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(raw) as packed:
        for info in packed.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            if info.flag_bits & 1:
                raise _refused(archive, f"{info.filename[:100]!r} is encrypted")
            yield _Member(
                info.filename,
                info.file_size,
                info.is_dir(),
                mode in (0, stat.S_IFREG),
                functools.partial(packed.open, info),
            )


def _unpack(
    members: Iterator[_Member],
    raw: IO[bytes],
    archive: Path,
    building: Path,
    keep: Sequence[str],
    member_bytes: int,
    progress: Progress | None,
) -> int:
    count = total = entries = 0
    size = archive.stat().st_size
    for member in members:
        entries += 1
        if entries > MAX_MEMBERS:
            raise _refused(archive, f"it has more than {MAX_MEMBERS} members")
        target = building / _safe_name(member.name, archive)
        if not member.is_folder and not member.is_file:
            raise _refused(
                archive,
                f"{member.name!r} is a link or a device, not a file or a folder",
            )
        if keep and not any(fnmatch(member.name, pattern) for pattern in keep):
            continue
        if target.exists() and not (member.is_folder and target.is_dir()):
            raise _refused(archive, f"{member.name!r} comes twice")
        try:
            (target if member.is_folder else target.parent).mkdir(
                parents=True, exist_ok=True
            )
        except (FileExistsError, NotADirectoryError):
            raise _refused(archive, f"{member.name!r} lies in what is a file") from None
        if member.is_folder:
            continue
        total += member.size
        if member.size > member_bytes or total > MAX_UNPACKED_BYTES:
            raise _refused(archive, f"{member.name!r} makes it too large")
        data = member.open()
        if data is None:
            raise _refused(archive, f"{member.name!r} can't be read")
        with data, target.open("wb") as file:
            shutil.copyfileobj(data, file)
        count += 1
        if progress is not None and (count % 100 == 0 or member.size > 1 << 24):
            progress("unpacked", raw.tell(), size)
    if not count:
        raise _refused(archive, "it holds no files")
    return count


class _Metered:
    """The unpacked bytes, refused when more come than what is being read can need:
    tarfile would take a header of any size into memory."""

    def __init__(self, plain: gzip.GzipFile, archive: Path) -> None:
        self.left = MAX_HEADER_BYTES
        self._plain = plain
        self._archive = archive

    def read(self, size: int) -> bytes:
        block = self._plain.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise _refused(self._archive, "a header, or what follows, is too large")
        return block


def _safe_name(text: str, archive: Path) -> PurePosixPath:
    name = PurePosixPath(text)
    if (
        name.is_absolute()
        or ".." in name.parts
        or "\\" in text
        or "\0" in text
        or re.match(r"[A-Za-z]:", text)
        or len(name.parts) > 8
        or any(len(part.encode(errors="replace")) > 200 for part in name.parts)
    ):
        raise _refused(archive, f"{text[:100]!r} would leave the folder")
    return name


def unpacked(archive: Path) -> Path:
    """The folder of an archive's content in the user's cache, unpacked if need be."""
    name = archive.name.split(".tar")[0].split(".tgz")[0]
    folder = user_cache() / "unpacked" / f"{name}-{file_key(archive)}"
    if not folder.is_dir():
        with locked(_beside(folder, "lock")):  # another process may be at it
            if not folder.is_dir():
                unpack(archive, folder)
    return folder


@contextlib.contextmanager
def fetching(out: Path) -> Iterator[None]:
    """Keep other fetches out of a folder.

    Raises:
        KwsError: another is at work in it.
    """
    busy = KwsError(
        f"Another kws data fetch is at work in this folder. Received: {str(out)!r}",
        "Wait for it, or fetch into another: kws data fetch --out "
        f"{quoted(_new(out))} ...",
    )
    with locked(_beside(out, "lock"), busy):
        yield


def is_there(source: Source, place: Path) -> bool:
    """Whether a folder holds what `fetch` unpacked of this source into it."""
    try:
        mark = json.loads((place / MARK).read_text(encoding="utf-8"))
        if source.sha256 is not None:
            return bool(mark["sha256"] == source.sha256)
        return bool(source.url and mark["url"] == source.url)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_free(place: Path, out: Path, beside: Sequence[str] = ()) -> None:
    """Refuse to unpack into a folder that holds something else.

    Args:
        place: The folder.
        out: The `--out` that it is in, for the hint.
        beside: Other parts' folders, which may be in it.

    Raises:
        KwsError: it isn't new or empty, or no folder.
    """
    if not place.exists():
        return
    inside = sorted(file.name for file in place.iterdir()) if place.is_dir() else []
    # What is hidden was left by a fetch that was stopped.
    known = (_building(place), *(f".{name}." for name in beside))
    others = [n for n in inside if n not in beside and not n.startswith(known)]
    if place.is_dir() and not others:
        return
    holds = f", which holds {some(others)}" if others else ""
    raise KwsError(
        "The folder to fetch into is in use. Expected a new or empty folder. "
        f"Received: {str(place)!r}{holds}",
        f"kws data fetch --out {quoted(_new(out))} ...",
    )


def _new(out: Path) -> str:
    """Another folder for `--out`."""
    return f"{out}-new" if out.name.strip(".") else str(out / "new")


def fetch(
    source: Source,
    out: Path,
    archive: Path | None = None,
    progress: Progress | None = None,
    beside: Sequence[str] = (),
) -> dict[str, Any]:
    """Download (or take `archive`), check, and unpack into `out`.

    Args:
        source: What to download; its size and checksum hold for `archive` too.
        out: A new or empty folder.
        archive: A .tar.gz that is already here; it is left where it is.
        progress: See `Progress`.
        beside: See `check_free`.

    Returns:
        `out`, `files`, `sha256` of the archive, and `checked`: whether it was
        compared with a published one.
    """
    _clear(out)
    check_free(out, out, beside)
    if archive is not None:
        if not archive.is_file():
            raise KwsError(
                f"No such archive. Expected a .tar.gz. Received: {str(archive)!r}",
                f"ls {quoted(archive.parent)}   (without --archive it is downloaded)",
            )
        received = _sha256(archive)
        if source.sha256 not in (None, received):
            raise KwsError(
                f"The archive is not the one that was published. Expected SHA-256 "
                f"{source.sha256}. Received: {received} ({archive})",
                "Copy it again; or, if you trust it: kws data fetch "
                f"--sha256 {received} ...",
            )
        mark = {"url": source.url, "sha256": received}
        count = unpack(archive, out, progress, mark=mark, beside=beside)
    else:
        packed = _beside(out, "archive")
        received = download(source, packed, progress, room=2)
        mark = {"url": source.url, "sha256": received}
        with _kept(packed):
            count = unpack(packed, out, progress, mark=mark, beside=beside)
    return {
        "out": str(out),
        "files": count,
        "sha256": received,
        "checked": source.sha256 is not None,
    }


def fetch_ambient(
    sound: Ambient,
    out: Path,
    archives: Sequence[Path] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Download ambient sound, check it, and unpack it into folders named for kinds.

    Parts that are there are not fetched again; one that broke off goes on.

    Args:
        sound: From `ambient`.
        out: Folder to make, or to go on with.
        archives: The parts, where they are at hand already: as many as there are.
        progress: See `Progress`.

    Returns:
        `out`, `files` unpacked now, and `parts`: url, sha256 of each; "" where it was
        there.

    Raises:
        KwsError: as `fetch`; or another number of archives.
    """
    if archives and len(archives) != len(sound.parts):
        files = ", ".join(source.url.rpartition("/")[2] for source in sound.parts)
        raise KwsError(
            f"{sound.name} has {len(sound.parts)} archives. Expected {files}. "
            f"Received: {len(archives)}",
            "Name each with --archive, in this order; or leave it out to download.",
        )
    if out.is_file():
        raise KwsError(
            f"Expected a folder to fetch into. Received: {str(out)!r}",
            f"kws data fetch --ambient NAME --out {quoted(f'{out}-new')}",
        )
    report: dict[str, Any] = {"out": str(out), "files": 0, "parts": []}
    names = [source.url.rpartition("/")[2].partition(".")[0] for source in sound.parts]
    places = [out / sound.kind / name if sound.kind else out for name in names]
    there = [is_there(*each) for each in zip(sound.parts, places, strict=True)]
    for place, known in zip(places, there, strict=True):
        _clear(place)
        if not known:
            check_free(place, out)
    for number, source in enumerate(sound.parts):
        name, place = names[number], places[number]
        if there[number]:
            report["parts"].append({"url": source.url, "sha256": ""})
            continue
        packed = _beside(out, f"{name}.archive")
        if archives:
            packed = archives[number]
            received = _sha256(packed) if packed.is_file() else "no file"
            if source.sha256 not in (None, received):
                raise KwsError(
                    f"The archive is not the one that was published. Expected SHA-256 "
                    f"{source.sha256}. Received: {received} ({packed})",
                    f"Copy it again from {source.url}",
                )
        else:
            # Of what isn't kept nothing is unpacked.
            received = download(source, packed, progress, room=1 if sound.keep else 2)
        with contextlib.nullcontext() if archives else _kept(packed):
            report["files"] += unpack(
                packed,
                place,
                progress,
                sound.keep,
                MAX_RECORDING_BYTES,
                {"url": source.url, "sha256": received},
            )
        report["parts"].append({"url": source.url, "sha256": received})
    return report


@contextlib.contextmanager
def _kept(packed: Path) -> Iterator[None]:
    """Keep a download for another try, but when it is unpacked, or can't be."""
    try:
        yield
    except Refused:
        discard(packed)
        raise
    discard(packed)


def _beside(out: Path, what: str) -> Path:
    """What is ours beside a folder: hidden, so that it is no file of the user's."""
    out = out.resolve()  # it may be `.`
    return out.parent / f".{out.name}.{what}"


def _too_large(source: Source, size: int, limit: int) -> KwsError:
    return KwsError(
        f"The file is larger than it should be. Expected at most {limit} bytes. "
        f"Received: {size} bytes from {source.url}",
        "Check the address, or fetch the official one: kws data fetch --help",
    )


def _refused(archive: Path, problem: str) -> Refused:
    return Refused(
        f"The archive is refused: {problem}. Expected the official archive. "
        f"Received: {archive}",
        "Fetch it again from its official address: kws data fetch --help",
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
