"""`kws eval` tells what thresholds spare, and it is what `kws simulate` tells."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sample_models
import toolbox
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")

from kws import bundle as bundles
from kws import data, evaluate
from kws.bundle import Bundle
from kws.cli import eval as eval_verb
from kws.cli import simulate as simulate_verb
from kws.data import ClipSet
from kws.deploy import emission
from kws.engines import host
from kws.errors import CheckFailed, KwsError

STEPS = {"X": 5, "Q": 4, "K": 3, "P": 1, "1.O": 6, "M": 4, "H": 2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A class token: of the last layer, the C runs one row."""
    spec = sample_models.recipe("kwt-1", frames=20, layers=2, mlp_dim=64)
    folder = tmp_path_factory.mktemp("eval") / "run"
    made = sample_models.bundle(folder, spec, sample_models.network(spec))
    bundles.save(dataclasses.replace(made, thresholds=STEPS))
    return bundles.load(folder)


@pytest.fixture
def clips(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> ClipSet:
    """Noise that swells and fades, wherever a split is loaded."""
    rng = np.random.default_rng(3)
    swell = 2000 * np.sin(np.linspace(0, 9, 16000)) ** 2
    pcm = (rng.normal(size=(6, 16000)) * swell).clip(-32768, 32767).astype(np.int16)
    label = np.arange(6, dtype=np.int32) % len(bundle.labels)
    names = [f"clip{i}" for i in range(6)]
    made = ClipSet(pcm, label, names, bundle.labels, "test", {"clips": names})
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: made)
    # The verb looks for a corpus first, and there may be none on this machine.
    monkeypatch.setattr(data, "open_corpus", lambda folder: None)
    return made


def as_json(verb: object, *arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(verb.command, [*arguments, "--json"])  # type: ignore[attr-defined]
    assert result.exit_code == 0, result.output
    table: dict[str, object] = json.loads(result.stdout)
    return table


@pytest.mark.parametrize("engine", ["host", "qemu"])
def test_eval_tells_what_simulate_tells(
    engine: str, bundle: Bundle, clips: ClipSet
) -> None:
    if engine == "qemu":
        toolbox.need_qemu()
        toolbox.need_compiler()
    run = str(bundle.path)
    evaluated = as_json(eval_verb, run, "--engine", engine)
    simulated = as_json(simulate_verb, run, "--theta", "bundle", "--engine", "int8")
    for key in evaluate.CUTS:
        assert evaluated[key] == simulated[key]
        assert 0.02 < evaluated[key] < 0.98  # type: ignore[operator]
    assert evaluated["accuracy"] == simulated["accuracy"]
    assert simulated["macs"]["p95"] >= simulated["macs"]["mean"]  # type: ignore[index]
    result = CliRunner().invoke(eval_verb.command, [run, "--engine", engine])
    cut = 100 * evaluated["mhsa_mac_cut"]  # type: ignore[operator]
    assert f"{cut:.1f} % of MHSA's" in result.stdout


def test_engines_without_thresholds_cut_nothing(bundle: Bundle, clips: ClipSet) -> None:
    table = as_json(eval_verb, str(bundle.path), "--engine", "tflm")
    assert [table[key] for key in evaluate.CUTS] == [0.0] * 4
    dense = dataclasses.replace(bundle, thresholds={})
    found = evaluate.evaluate_clips(dense, clips, "host")
    assert found.as_dict()["mac_cut"] == 0.0


def test_a_boards_cut_is_what_that_board_skips(bundle: Bundle, clips: ClipSet) -> None:
    """H=0 is dense on Helium: there P spares what it spares alone."""
    toolbox.need_qemu()
    toolbox.need_compiler()

    def cut(thresholds: dict[str, int], *engine: str) -> float:
        chosen = dataclasses.replace(bundle, thresholds=thresholds)
        found = evaluate.evaluate_clips(chosen, clips, *engine).as_dict()
        return float(found["mac_cut"])

    both, alone = {"H": 0, "P": 1}, {"P": 1}
    assert cut(both, "qemu", "qemu-m55") == cut(alone, "host") > 0
    assert cut(both, "host") > cut(alone, "host") + 0.01


def test_a_wrong_count_or_logit_is_told(bundle: Bundle, clips: ClipSet) -> None:
    logits, sent = host.counted(bundle, clips.pcm)
    products = emission.products(bundle)
    whole = [p.kind == "X" and p.layer == 0 for p in products].index(True)
    wrong = sent.copy()
    wrong[3, whole] += 1
    with pytest.raises(CheckFailed, match="differ"):
        evaluate.spared(bundle, clips.pcm, logits, wrong)
    other = logits.copy()
    other[5, 0] ^= 1
    with pytest.raises(CheckFailed, match="differ"):
        evaluate.spared(bundle, clips.pcm, other, sent)


def test_counts_do_not_depend_on_order_or_threads(
    bundle: Bundle, clips: ClipSet, tmp_path: Path
) -> None:
    pcm = np.concatenate([clips.pcm] * 12)  # more than one chunk
    logits, sent = host.counted(bundle, pcm, jobs=2)
    again = host.counted(bundle, pcm[::-1], jobs=1)
    np.testing.assert_array_equal(logits, again[0][::-1])
    np.testing.assert_array_equal(sent, again[1][::-1])


def test_simulated_thresholds_can_be_kept(
    bundle: Bundle,
    clips: ClipSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(bundle.path, run)
    bundles.save(dataclasses.replace(bundles.load(run), thresholds={}))
    as_json(simulate_verb, str(run), "--theta", "H=0,P=0.01")
    assert bundles.load(run).thresholds == {}
    as_json(simulate_verb, str(run), "--theta", "H=0,P=0.01", "--keep")
    assert bundles.load(run).thresholds == {"H": 0, "P": 2}  # steps of 1/256
    float_run = [str(run), "--engine", "float", "--theta", "H=0", "--keep"]
    result = CliRunner().invoke(simulate_verb.command, float_run)
    assert isinstance(result.exception, KwsError)
    monkeypatch.setattr(bundles, "PRETRAINED", tmp_path)
    result = CliRunner().invoke(
        simulate_verb.command, [str(run), "--theta", "H=5", "--keep"]
    )
    assert isinstance(result.exception, KwsError)
    assert "shipped" in str(result.exception)
    assert bundles.load(run).thresholds == {"H": 0, "P": 2}
