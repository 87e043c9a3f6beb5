"""The page of a sweep: one file, every point on it, no data taken as HTML."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil

import pytest
from click.testing import CliRunner

from kws import bundle as bundles
from kws.errors import KwsError
from kws.report.sweep import load_sweep, of_run, page, write


def sweep() -> dict:
    """A small sweep of a network of two layers."""
    points = []
    for cut, accuracy in ((0.0, 0.95), (0.6, 0.94), (0.8, 0.90)):
        points.append(
            {
                "stage": "global" if cut else "dense",
                "accuracy": accuracy,
                "ci95": [accuracy - 0.02, accuracy + 0.02],
                "divergence": cut / 10,
                "mhsa_mac_cut": cut,
                "mhsa_mac_cut_rows": cut * 0.9,
                "mac_cut": cut / 2,
                "mac_cut_rows": cut * 0.45,
                "macs": {"mean": 5e6 * (1 - cut / 2), "p95": 5e6},
                "comparisons": 1000,
                "layer_cut": [cut, cut],
                "thresholds": {"X": cut, "1.Q": 0.25} if cut else {},
            }
        )
    return {
        "run": "runs/tiny",
        "task": "gsc10",
        "split": "val",
        "features": "board",
        "n": 321,
        "engine": "int8",
        "command": "kws sweep runs/tiny --task gsc10",
        "points": points,
        "pareto": [0, 1, 2],
        "pareto_model": [0, 1, 2],
        "boards": {},
        "picked": points[1],
    }


def measured() -> dict:
    """The same with instructions, of two of the points."""
    table = sweep()
    table["points"][0]["instructions"] = {"qemu-m4": 8_000_000}
    table["points"][1]["instructions"] = {"qemu-m4": 6_000_000}
    facts = {"clips": 4, "dense": 8_000_000, "measured": 2, "pareto": [0, 1]}
    return table | {"boards": {"qemu-m4": facts}}


def embedded(text: str) -> dict:
    """The data that the page draws."""
    (data,) = re.findall(
        r'<script type="application/json" id="sweep-data">(.*?)</script>', text
    )
    return json.loads(data)


def test_the_page_has_every_point_and_needs_no_other_file():
    table = sweep()
    text = page(table)
    assert "@@" not in text
    data = embedded(text)
    assert data["points"] == table["points"]
    assert data["picked"] == 1
    assert text.count("<tr data-point=") == 2 * 3  # two fronts
    assert "94.00 %" in text and "321" in text
    assert not re.search(r"(src|href)=(?!\"#)|url\(|@import|fetch\(", text)
    assert not set(re.findall(r"https?://[^\"' ]+", text)) - {
        "http://www.w3.org/2000/svg"
    }


def test_the_page_says_what_dense_is_and_how_to_take_each_point():
    text = page(sweep() | {"setup": "cp -r a runs/tiny"})
    assert "Dense: the network with nothing skipped" in text
    assert "<b>95.00 %</b> right, of 321 val clips of gsc10" in text
    for index in (0, 1, 2):
        command = f"kws sweep runs/tiny --task gsc10 --pick point={index}"
        assert text.count(f"<code>{command}</code>") == 2
    assert "X=0.6 1.Q=0.25" in text
    assert "cp -r a runs/tiny" in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_instructions_are_shown_where_they_were_measured():
    text = page(measured())
    assert "<b>8.00 M</b> instructions on qemu-m4" in text
    assert "6.00 M (-25 %)" in text
    assert "2 settings on 4 clips each" in text
    data = embedded(text)
    assert data["axes"][0]["path"] == ["instructions", "qemu-m4"]
    assert data["axes"][0]["fronts"] == {"accuracy": [0, 1]}
    assert text.count("<tr data-point=") == 2 + 2 * 3


def test_plots_are_pictures_of_each_axis(tmp_path):
    pytest.importorskip("matplotlib")
    page_file, *plots = write(measured(), tmp_path)
    assert page_file.name == "report.html"
    assert [file.name for file in plots] == [
        "accuracy_instructions_qemu-m4.png",
        "accuracy_mhsa_macs.png",
        "accuracy_model_macs.png",
    ]
    from matplotlib.image import imread

    for file in plots:
        image = imread(file)
        assert image.shape == (880, 1280, 4)
        for colour in ("0072b2", "1d1d1b"):  # the chosen point's ring; dense and front
            wanted = [part / 255 for part in bytes.fromhex(colour)]
            assert (abs(image[:, :, :3] - wanted).max(axis=2) < 0.02).sum() > 100


def test_nothing_in_the_data_becomes_html():
    table = sweep()
    table["run"] = "</script><img src=x onerror=alert(1)>"
    table["points"][0]["stage"] = "<u>"
    text = page(table)
    assert "<img" not in text and "<u>" not in text
    assert embedded(text)["target"] == f"'{table['run']}'"  # one word of a shell


def test_what_looks_like_a_place_is_not_filled():
    table = sweep()
    table["run"] = "@@data@@ @@none@@"
    text = page(table)
    assert "<title>Delta thresholds for @@data@@ @@none@@</title>" in text
    assert embedded(text)["points"] == table["points"]


def test_command(tmp_path):
    from kws.cli.report import command

    (tmp_path / "sweep.json").write_text(json.dumps(sweep()))
    result = CliRunner().invoke(command, [str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "3 points" in result.output
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    "mangle",
    [
        lambda t: t.pop("points"),
        lambda t: t.update(points=[]),
        lambda t: t.update(n="<b>"),
        lambda t: t.update(pareto=[3]),
        lambda t: t.update(pareto=["0"]),
        lambda t: t["points"][1].pop("ci95"),
        lambda t: t["points"][1].update(accuracy="high"),
        lambda t: t["points"][1].update(thresholds={"X": "<b>"}),
        lambda t: t["points"][1].update(macs=3),
        lambda t: t["points"][1].update(instructions={"qemu-m4": 1}),
        lambda t: t.update(boards={"qemu-m4": {"dense": 1, "pareto": [7]}}),
        lambda t: t.update(boards={"<b>": {"dense": "<b>", "pareto": [0]}}),
        lambda t: t.update(boards={"qemu-m4": {"dense": 0, "pareto": [0]}}),
        lambda t: t.update(boards={"qemu-m4": {"dense": 1, "pareto": [0]}}),
        lambda t: t["points"][1].update(accuracy=10**400),
        lambda t: t["points"][1].pop("stage"),
        lambda t: t["points"][1].update(steps={"X": "<b>"}),
        lambda t: t.update(command="curl example.org"),
        lambda t: t.update(command="kws sweep x; curl example.org"),
        lambda t: t.update(command="kws sweep 'x"),
        lambda t: t.update(setup="cp -r a b && curl example.org"),
        lambda t: t["points"][1].update(steps=[1]),
    ],
)
def test_other_files_are_refused(tmp_path, mangle):
    table = copy.deepcopy(sweep())
    mangle(table)
    (tmp_path / "sweep.json").write_text(json.dumps(table))
    with pytest.raises(KwsError, match="Not a sweep"):
        load_sweep(tmp_path)


def test_a_run_that_was_trained_again_does_not_show_the_sweep_of_before(tmp_path):
    run = shutil.copytree(bundles.PRETRAINED / "kwt-tiny", tmp_path / "run")
    bundle = bundles.load(run)
    (run / "sweep").mkdir()
    network = hashlib.sha256(bundle.model_bytes()).hexdigest()
    for named in ({}, {"network": network}):
        (run / "sweep" / "sweep.json").write_text(json.dumps(sweep() | named))
        assert of_run(bundle)["points"]
    bundle.model_path.write_bytes(bundle.model_bytes() + bytes(16))
    with pytest.raises(KwsError, match="of another network") as caught:
        of_run(bundle)
    assert f"rm -r {run / 'sweep'}" in caught.value.hint


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(KwsError, match="No sweep here"):
        load_sweep(tmp_path)
