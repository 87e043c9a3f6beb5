"""The bundle: one folder that is a trained keyword spotter (DESIGN D11).

    recipe.toml    the recipe, whole
    bundle.json    schema version, labels, thresholds, hashes of the files below
    weights.h5     Keras weights (absent in a bundle that was imported as .tflite)
    model.tflite   int8, stock operators
    metrics.json   what was measured on it, with task, N and interval
    checkpoints/   training only; not part of the bundle

`hash` is SHA-256 over model.tflite, labels, feature spec, detector and thresholds:
what runs on the board. The firmware prints its first 16 hex digits at boot and
`kws flash` compares them.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kws import recipe as recipes
from kws.errors import KwsError, quoted
from kws.recipe import Features, Recipe

SCHEMA_VERSION = 1
MAX_MODEL_BYTES = 64 * 1024 * 1024
MAX_JSON_BYTES = 4 * 1024 * 1024
PAGE_MARK = b'<meta name="generator" content="kws">'
PRETRAINED = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Args:
        path: The folder.
        recipe: Its recipe.
        labels: Label names in logit order.
        thresholds: Delta thresholds, tensor name -> int8 steps (DESIGN D2).
        metrics: What was measured, by name.
    """

    path: Path
    recipe: Recipe
    labels: tuple[str, ...]
    thresholds: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def shipped(self) -> bool:
        """Whether it came with the package: nothing is written into such a folder."""
        return self.path.resolve().is_relative_to(PRETRAINED.resolve())

    @property
    def copy_command(self) -> str:
        """What makes a shipped run one's own: it is in runs/ then, by the same name."""
        return f"mkdir -p runs && cp -r {quoted(self.path)} runs/"

    @property
    def weights_path(self) -> Path:
        return self.path / "weights.h5"

    @property
    def model_path(self) -> Path:
        return self.path / "model.tflite"

    def model_bytes(self) -> bytes:
        """The .tflite.

        Raises:
            KwsError: the bundle has not been converted yet, or the file is too large.
        """
        if not self.model_path.is_file():
            raise KwsError(
                f"The bundle has no model.tflite yet. Received: {self.path}",
                f"kws convert {quoted(self.path)}",
            )
        if self.model_path.stat().st_size > MAX_MODEL_BYTES:
            raise KwsError(
                f"model.tflite is larger than {MAX_MODEL_BYTES} bytes. "
                f"Received: {self.model_path}",
                "Use a smaller network: kws train --preset kwt-tiny --out runs/tiny",
            )
        return self.model_path.read_bytes()

    @property
    def hash(self) -> str:
        """64 hex digits over everything that runs on the board."""
        return board_hash(self.model_bytes(), self.recipe, self.labels, self.thresholds)


def board_hash(
    model: bytes, recipe: Recipe, labels: tuple[str, ...], thresholds: dict[str, int]
) -> str:
    """SHA-256 of what runs on the board; see `Bundle.hash`."""
    digest = hashlib.sha256()
    features = dataclasses.asdict(recipe.features)
    if features["floor"] == Features().floor:
        del features["floor"]  # bundles from before there was one keep their hash
    spec = {
        "labels": list(labels),
        "features": features,
        "detector": dataclasses.asdict(recipe.detector),
        "thresholds": thresholds,
    }
    digest.update(json.dumps(spec, sort_keys=True).encode())
    digest.update(model)
    return digest.hexdigest()


def save(bundle: Bundle) -> None:
    """Write recipe.toml, metrics.json and bundle.json; where one can't be written, none
    is."""
    recipe = recipes.to_toml(bundle.recipe).encode()
    hashes = {"recipe.toml": hashlib.sha256(recipe).hexdigest()}
    for path in (bundle.weights_path, bundle.model_path):
        if path.is_file():
            hashes[path.name] = _sha256(path)
    table: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "labels": list(bundle.labels),
        "thresholds": bundle.thresholds,
        "files": hashes,
    }
    if bundle.model_path.is_file():
        table["hash"] = bundle.hash
    files = {
        "recipe.toml": recipe,
        "metrics.json": _json_bytes(bundle.metrics, sort_keys=True),
        "bundle.json": _json_bytes(table),
    }
    write_all({bundle.path / name: data for name, data in files.items()})


def unchanged(bundle: Bundle, since: str, again: str) -> Bundle:
    """The run as it lies there now, to be changed and saved.

    Args:
        bundle: As it was loaded.
        since: Its hash then.
        again: What to type where it is another by now.

    Raises:
        KwsError: what runs on the board was changed meanwhile.
    """
    now = load(bundle.path)
    if now.hash != since:
        raise KwsError(
            "The run was changed meanwhile: nothing is written into it. Expected hash "
            f"{since[:16]}. Received: {now.hash[:16]} in {bundle.path}",
            again,
        )
    return now


def load(run: str | Path, accept_changed: bool = False) -> Bundle:
    """Read a bundle by folder, or a shipped preset by name, and check it.

    Args:
        run: Folder or preset.
        accept_changed: Take its files as they are (`kws convert` makes it anew).

    Raises:
        KwsError: not a bundle, another schema version, a missing or changed file.
    """
    path = Path(run)
    if not path.is_dir() and (PRETRAINED / str(run)).is_dir():
        path = PRETRAINED / str(run)
    manifest = path / "bundle.json"
    if not manifest.is_file():
        raise _no_bundle(path)
    table = read_json(manifest)
    if not isinstance(table, dict) or table.get("schema") != SCHEMA_VERSION:
        received = table.get("schema") if isinstance(table, dict) else None
        raise KwsError(
            f"This bundle was made by another version of kws: expected schema "
            f"{SCHEMA_VERSION}. Received: {received!r} in {manifest}",
            "Install the version that made it, or train again: "
            f"kws train --recipe {quoted(path / 'recipe.toml')} --out "
            f"{quoted(f'{path}-new')}",
        )
    labels = table.get("labels")
    thresholds = table.get("thresholds", {})
    files = table.get("files")
    if (
        not isinstance(labels, list)
        or not labels
        or not all(isinstance(label, str) for label in labels)
        or not isinstance(files, dict)
        or not isinstance(thresholds, dict)
        or not all(
            isinstance(value, int) and 0 <= value <= 255
            for value in thresholds.values()
        )
    ):
        raise KwsError(
            f"bundle.json is incomplete: expected labels, files and thresholds "
            f"(0..255). Received: {manifest}",
            "Copy the bundle again, or train again.",
        )
    for name, expected in files.items():
        if name not in ("recipe.toml", "weights.h5", "model.tflite"):
            raise KwsError(
                f"bundle.json names a file that no bundle has. Received: {name!r}",
                "Copy the bundle again from a source that you trust.",
            )
        file = path / name
        if accept_changed:
            continue
        if not file.is_file():
            raise KwsError(
                f"The bundle is incomplete: {name} is missing. Received: {path}",
                "Copy the whole folder again.",
            )
        received = _sha256(file)
        if received != expected:
            raise KwsError(
                f"{name} is not the file that the bundle was made with. Expected "
                f"SHA-256 {str(expected)[:16]}..., received {received[:16]}... "
                f"in {path}",
                "Copy the folder again, or accept the file: kws convert "
                f"{quoted(path)}",
            )
    metrics_path = path / "metrics.json"
    metrics = read_json(metrics_path) if metrics_path.is_file() else {}
    if not isinstance(metrics, dict):
        raise KwsError(
            f"metrics.json is not a table of what was measured. Received: {path}",
            f"rm {quoted(metrics_path)}   (what runs on the board is not in it)",
        )
    return Bundle(
        path=path,
        recipe=recipes.load(str(path / "recipe.toml")),
        labels=tuple(labels),
        thresholds=dict(thresholds),
        metrics=metrics,
    )


def _no_bundle(path: Path) -> KwsError:
    """Why there is no run, and which one may be meant: a name is mistyped, a training
    was stopped, or the folder of the runs is named."""
    inside = sorted(str(file.parent) for file in path.glob("*/bundle.json"))
    if (path / "checkpoints").is_dir() and not inside:
        return KwsError(
            "No run yet: its training was stopped, or goes on. Expected a folder with "
            f"bundle.json. Received: {str(path)!r}",
            "Type the command that began it again: it goes on where it was.",
        )
    shipped = sorted(file.parent.name for file in PRETRAINED.glob("*/bundle.json"))
    beside = [str(file.parent) for file in path.parent.glob("*/bundle.json")]
    close = inside or difflib.get_close_matches(str(path), [*beside, *shipped], n=1)
    maybe = f" Did you mean {close[0]!r}?" if close else ""
    return KwsError(
        f"There is no run here.{maybe} Expected a folder with bundle.json, or a "
        f"shipped run: {', '.join(shipped)}. Received: {str(path)!r}",
        "kws train --preset kwt-tiny --out runs/tiny",
    )


def check_page(path: Path) -> Path:
    """The file of a page, which replaces nothing but another page of ours.

    Raises:
        KwsError: its name is not that of a page, something else is there, or a file is
            where its folder should be.

    Example:
        >>> check_page(Path("page.html")).name
        'page.html'
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise KwsError(
            f"A page is a .html. Received: --out {str(path)!r}",
            f"--out {quoted(path.with_suffix('.html'))}",
        )
    if path.exists() and not (path.is_file() and PAGE_MARK in _head(path)):
        raise KwsError(
            "There is something else already. Expected a new name, or a page of kws "
            f"to replace. Received: --out {str(path)!r}",
            f"--out {quoted(path.with_stem(f'{path.stem}-new'))}",
        )
    check_folder(path.parent, path, "--out")
    return path


def check_folder(folder: Path, typed: Path, option: str) -> None:
    """See that a folder is there or can be made, before there is something to write.

    Args:
        folder: Where that will be written.
        typed: The folder, or a file in it.
        option: That names it.

    Raises:
        KwsError: it, or what it would be in, is no folder.
    """
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        other = there.with_name(f"{there.name}-new") / typed.relative_to(there)
        raise KwsError(
            f"{str(there)!r} is no folder. Expected a folder, or a new name. "
            f"Received: {option} {str(typed)!r}",
            f"{option} {quoted(other)}",
        )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def read_json(path: Path) -> Any:
    """Parse a small JSON file.

    Raises:
        KwsError: too large, or not JSON.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise KwsError(
            f"{path.name} is larger than {MAX_JSON_BYTES} bytes. Received: {path}",
            "Copy the run again: something else has written this file.",
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise KwsError(
            f"Not valid JSON: {error}. Received: {path}",
            "Copy the file again.",
        ) from None


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary name beside `path`, then rename: never half a file."""
    write_all({path: data})


def write_all(files: Mapping[Path, bytes], again: str = "") -> None:
    """Write files that belong together: all lie there whole, under temporary names,
    before the first takes its place.

    Args:
        files: Path -> what it is to hold; the last takes its place last.
        again: What to type where something else is there; empty: it is written over.

    Raises:
        KwsError: one holds something else; then none is written.
    """
    for path in files if again else ():
        if path.exists() and not (
            path.is_file()
            and path.stat().st_size == len(files[path])
            and path.read_bytes() == files[path]
        ):
            raise KwsError(
                "There is something else already. Expected a new name, or what the "
                f"same command made. Received: {str(path)!r}",
                again,
            )
    written: list[tuple[Path, Path]] = []
    try:
        for path, held in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            written.append((Path(name), path))
            with os.fdopen(handle, "wb") as file:
                file.write(held)
            Path(name).chmod(0o644)
        for temporary, path in written:
            temporary.replace(path)
    except BaseException:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
        raise


def _json_bytes(table: Any, sort_keys: bool = False) -> bytes:
    return (json.dumps(table, indent=1, sort_keys=sort_keys) + "\n").encode()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
