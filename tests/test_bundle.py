"""The bundle: complete, unchanged, of this version, or refused with the reason."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import toolbox

from kws import bundle, recipe
from kws.errors import KwsError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A small bundle; its model is no network, which nothing here reads."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.tflite").write_bytes(b"not read here")
    bundle.save(
        bundle.Bundle(
            path=folder,
            recipe=recipe.load("kwt-tiny"),
            labels=("_silence_", "_unknown_", "yes"),
            metrics={"n": 3},
        )
    )
    return folder


def change(run: Path, **entries: object) -> None:
    table = json.loads((run / "bundle.json").read_text())
    table.update(entries)
    (run / "bundle.json").write_text(json.dumps(table))


def test_a_run_that_is_not_there_tells_which_may_be_meant(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    for typed, meant in (
        ("rnu", "run"),  # beside the one that is meant
        ("kwt-tinny", "kwt-tiny"),  # shipped
        (str(run.parent), str(run)),  # the folder that holds it
    ):
        with pytest.raises(KwsError, match=f"Did you mean {re.escape(repr(meant))}"):
            bundle.load(typed)
    with pytest.raises(KwsError) as told:
        bundle.load("elsewhere/of-another-name")
    assert "Did you mean" not in str(told.value) and "kwt-tiny" in str(told.value)


def test_a_training_that_was_stopped_is_no_run_and_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine" / "checkpoints").mkdir(parents=True)
    with pytest.raises(KwsError, match="training was stopped") as told:
        bundle.load(tmp_path / "mine")
    assert "again" in told.value.hint


def test_a_saved_bundle_loads_equal(run: Path) -> None:
    loaded = bundle.load(run)
    assert loaded.labels == ("_silence_", "_unknown_", "yes")
    assert loaded.recipe == recipe.load("kwt-tiny")
    assert loaded.metrics == {"n": 3}
    assert loaded.hash == json.loads((run / "bundle.json").read_text())["hash"]


def test_nothing_temporary_stays_behind(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {"bundle.json", "metrics.json", "model.tflite", "recipe.toml"}


def test_the_hash_covers_all_that_runs_on_the_board(run: Path) -> None:
    loaded = bundle.load(run)
    detector = dataclasses.replace(loaded.recipe.detector, threshold=0.9)
    features = dataclasses.replace(loaded.recipe.features, scale=0.09)
    others = [
        dataclasses.replace(loaded, labels=("_silence_", "_unknown_", "no")),
        dataclasses.replace(loaded, thresholds={"block0/X": 1}),
        dataclasses.replace(
            loaded, recipe=dataclasses.replace(loaded.recipe, detector=detector)
        ),
        dataclasses.replace(
            loaded, recipe=dataclasses.replace(loaded.recipe, features=features)
        ),
    ]
    hashes = {loaded.hash} | {other.hash for other in others}
    assert len(hashes) == 5


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("no_manifest", "There is no run here"),
        ("manifest_not_json", "Not valid JSON"),
        ("manifest_too_deep", "Not valid JSON"),
        ("manifest_too_large", "larger than"),
        ("another_schema", "another version of kws"),
        ("no_labels", "incomplete"),
        ("threshold_out_of_range", "incomplete"),
        ("foreign_file", "a file that no bundle has"),
        ("metrics_no_table", "metrics.json"),
        ("model_missing", "model.tflite is missing"),
        ("model_changed", "not the file that the bundle was made with"),
    ],
)
def test_a_broken_bundle_is_refused_with_the_reason(
    run: Path, fault: str, told: str
) -> None:
    manifest = run / "bundle.json"
    if fault == "no_manifest":
        manifest.unlink()
    elif fault == "manifest_not_json":
        manifest.write_text("{")
    elif fault == "manifest_too_deep":
        manifest.write_text("[" * 200_000)
    elif fault == "manifest_too_large":
        manifest.write_text(" " * (bundle.MAX_JSON_BYTES + 1))
    elif fault == "another_schema":
        change(run, schema=bundle.SCHEMA_VERSION + 1)
    elif fault == "no_labels":
        change(run, labels=[])
    elif fault == "threshold_out_of_range":
        change(run, thresholds={"block0/X": 1000})
    elif fault == "foreign_file":
        change(run, files={"../../etc/passwd": "0"})
    elif fault == "metrics_no_table":
        (run / "metrics.json").write_text("[]")
    elif fault == "model_missing":
        (run / "model.tflite").unlink()
    elif fault == "model_changed":
        (run / "model.tflite").write_bytes(b"another")
    with pytest.raises(KwsError, match=told) as caught:
        bundle.load(run)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    bundle.write_atomic(path, b"old")
    with pytest.raises(TypeError):
        bundle.write_atomic(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_run_as_it_was(run: Path) -> None:
    """A new recipe beside the old bundle.json made the run another's than it says."""
    loaded = bundle.load(run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    changed = dataclasses.replace(
        loaded,
        recipe=dataclasses.replace(loaded.recipe, name="other"),
        metrics={"long": "x" * 20_000},
    )
    with toolbox.full_disk(10_000), pytest.raises(OSError, match="too large"):
        bundle.save(changed)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    bundle.save(changed)
    assert bundle.load(run) == changed


def test_a_page_replaces_pages_alone(tmp_path: Path) -> None:
    page, other = tmp_path / "page.html", tmp_path / "index.html"
    assert bundle.check_page(page) == page
    other.write_text("<!doctype html><title>mine</title>")
    with pytest.raises(KwsError, match="something else already") as caught:
        bundle.check_page(other)
    assert caught.value.hint == f"--out {tmp_path / 'index-new.html'}"
    for name in ("report/shell.html", "emit/web/page.html"):
        page.write_bytes((Path(bundle.__file__).parent / name).read_bytes())
        assert bundle.check_page(page) == page


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """After all the work the system said: File exists."""
    file = tmp_path / "my file"
    file.touch()
    bundle.check_folder(tmp_path / "new" / "one", tmp_path / "new" / "one", "--cut")
    for typed, folder, option in (
        (file / "x.html", file, "--out"),
        (file / "a" / "e.tsv", file / "a", "--events"),
        (file, file, "--cut"),
    ):
        with pytest.raises(KwsError, match="Expected a folder") as caught:
            bundle.check_folder(folder, typed, option)
        other = str(typed).replace("my file", "my file-new")
        assert caught.value.hint == f"{option} '{other}'"
    with pytest.raises(KwsError, match="Expected a folder"):
        bundle.check_page(file / "x.html")
