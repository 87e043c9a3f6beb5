"""Every engine keeps the contract of kws/engines; evaluation counts right."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_detector
import sample_models
import toolbox
from click.testing import CliRunner

from kws import doctor, engines, evaluate, intervals, tapes
from kws.bundle import Bundle
from kws.cli.eval import command
from kws.data import ClipSet
from kws.data.tape import Tape, Window
from kws.deploy import host, toolchain
from kws.emit import native
from kws.engines import host as engine
from kws.errors import KwsError
from kws.recipe import Detector

pytest.importorskip("tensorflow", reason="the sample models are made with TensorFlow")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from kws.model import network as networks

    spec = sample_models.recipe(layers=1, frames=40)
    made = sample_models.bundle(
        tmp_path_factory.mktemp("bundle"), spec, sample_models.network(spec)
    )
    network = networks.build(spec, len(made.labels), "folded")
    networks.save_weights(network, made)
    return made


@pytest.fixture(scope="module")
def pcm() -> np.ndarray:
    """Tones and noise of all loudnesses, one silent clip."""
    rng = np.random.default_rng(3)
    t = np.arange(16000) / 16000
    clips = [np.zeros(16000)]
    for i in range(5):
        tone = np.sin(2 * np.pi * (200 + 300 * i) * t * (1 + t))
        clips.append(10.0 ** (i + 0.3) * 0.3 * (tone + 0.2 * rng.normal(size=16000)))
    return np.clip(np.rint(clips), -32768, 32767).astype(np.int16)


def need(name: str) -> None:
    if name == "qemu":
        toolbox.need_qemu()
        toolbox.need_compiler()


@pytest.mark.parametrize("name", engines.names())
def test_contract(name: str, bundle: Bundle, pcm: np.ndarray) -> None:
    need(name)
    module = engines.get(name)
    reported: list[int] = []
    logits = module.logits(bundle, pcm, jobs=1, board=None, progress=reported.append)
    assert logits.shape == (len(pcm), len(bundle.labels))
    assert logits.dtype == (np.int8 if module.INTEGER else np.float32)
    assert reported[-1] == len(pcm) and reported == sorted(reported)
    # A clip's logits don't depend on what was run before it.
    again = module.logits(bundle, pcm[::-1], jobs=2)[::-1]
    np.testing.assert_allclose(logits, again, atol=0 if module.INTEGER else 1e-4)
    with pytest.raises(KwsError, match="Clips must be int16"):
        module.logits(bundle, pcm[:, :1000])
    with pytest.raises(KwsError, match="no clips"):
        module.logits(bundle, pcm[:0])


@pytest.mark.parametrize("name", ["host", "qemu"])
def test_bit_exact_to_tflm(name: str, bundle: Bundle, pcm: np.ndarray) -> None:
    need(name)
    expected = engines.get("tflm").logits(bundle, pcm)
    assert len(np.unique(expected)) > 8
    np.testing.assert_array_equal(engines.get(name).logits(bundle, pcm), expected)


def test_tflites_engine_gives_the_same_labels(bundle: Bundle, pcm: np.ndarray) -> None:
    ours = engines.get("host").logits(bundle, pcm)
    reference = engines.get("tflite").logits(bundle, pcm)
    assert np.abs(ours.astype(int) - reference).max() <= 5
    assert (ours.argmax(1) == reference.argmax(1)).mean() >= 0.8


def test_many_clips_in_processes_keep_their_order(
    bundle: Bundle, pcm: np.ndarray
) -> None:
    from kws.engines import common

    count = common.FEW + 10
    many = np.tile(pcm, (count // len(pcm) + 1, 1))[:count]
    np.testing.assert_array_equal(
        engines.get("tflm").logits(bundle, many, jobs=2),
        engine.logits(bundle, many, jobs=2),
    )


def test_old_names_are_the_new_ones() -> None:
    for old, name in (("device", "host"), ("int8", "tflite"), ("tflm", "tflm")):
        assert engines.canonical(old) == name
        assert engines.get(old).__name__ == f"kws.engines.{name}"


def test_unknown_engine() -> None:
    with pytest.raises(KwsError, match="Did you mean 'host'"):
        engines.get("hots")


def test_broken_model_is_refused_by_every_engine_that_reads_it(
    bundle: Bundle, pcm: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("build"))
    (folder / "model.tflite").write_bytes(bundle.model_bytes()[:-500])
    broken = Bundle(folder, bundle.recipe, bundle.labels)
    for name in ("host", "tflm", "tflite"):
        with pytest.raises(KwsError, match="broken"):
            engines.get(name).logits(broken, pcm)


def test_library_is_built_once(bundle: Bundle) -> None:
    first = host.library(bundle)
    made = first.stat().st_mtime_ns
    assert host.library(bundle) == first
    assert first.stat().st_mtime_ns == made


def test_a_library_that_is_there_is_found_without_emitting(
    bundle: Bundle, pcm: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine.logits(bundle, pcm)

    def emitted(*_: Any, **more: Any) -> None:
        pytest.fail("emitted again")

    monkeypatch.setattr(native, "sources", emitted)
    np.testing.assert_array_equal(engine.logits(bundle, pcm), expected)
    # What would run on a board is another thing with other thresholds.
    other = dataclasses.replace(bundle, thresholds={"X": 1})
    with pytest.raises(pytest.fail.Exception, match="emitted again"):
        host.library(other)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KwsError, match="no C compiler"):
        host.build({"never.c": "seen before"})
    assert not doctor._host_compiler().ok  # and says so, by the same rule


def test_ccs_choice_is_the_doctors(monkeypatch: pytest.MonkeyPatch) -> None:
    """zig from PyPI compiles for this machine: then no compiler is missing."""
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: name)
    assert doctor._host_compiler().ok


# --- evaluation ---


def clip_set(bundle: Bundle, pcm: np.ndarray, label: list[int]) -> ClipSet:
    return ClipSet(
        pcm,
        np.array(label, np.int32),
        [f"clip{i}" for i in range(len(pcm))],
        bundle.labels,
        "test",
        {},
    )


def test_accuracy_confusion_and_recall(bundle: Bundle, pcm: np.ndarray) -> None:
    heard = engine.logits(bundle, pcm).argmax(axis=1)
    truth = [int(label) for label in heard]
    truth[0] = (truth[0] + 1) % len(bundle.labels)
    result = evaluate.evaluate_clips(bundle, clip_set(bundle, pcm, truth))
    assert result.n == len(pcm)
    assert result.accuracy == pytest.approx(1 - 1 / len(pcm))
    assert result.confusion[truth[0], heard[0]] >= 1
    table = result.as_dict()
    for key in (
        "task",
        "split",
        "engine",
        "n",
        "accuracy",
        "ci95",
        "recall",
        "confusion",
        "mhsa_mac_cut",
        "mac_cut",
    ):
        assert key in table
    json.dumps(table)
    unheard = set(range(len(bundle.labels))) - set(truth)
    assert all(table["recall"][bundle.labels[i]] is None for i in unheard)


def test_wrong_labels_are_refused(bundle: Bundle, pcm: np.ndarray) -> None:
    clips = clip_set(bundle, pcm, [0] * len(pcm))
    other = ClipSet(clips.pcm, clips.label, clips.names, ("a", "b"), "test", {})
    with pytest.raises(KwsError, match="labels are not the bundle's"):
        evaluate.evaluate_clips(bundle, other)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (94, 100), (3846, 4092)])
def test_wilson_interval_solves_its_equation(hits: int, n: int) -> None:
    """Its ends are the p with |hits/n - p| = z * sqrt(p (1 - p) / n)."""
    low, high = intervals.wilson_interval(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    for p in (low, high):
        if 0 < p < 1:
            spread = 1.959964 * math.sqrt(p * (1 - p) / n)
            assert abs(hits / n - p) == pytest.approx(spread, abs=1e-9)


def test_an_interval_by_clusters_holds_what_it_promises() -> None:
    """Of 300 draws of 60 people, who differ and say five words each or forty: 93 of
    100 hold the share that was drawn from, and 65 of Wilson's by clip."""
    rng = np.random.default_rng(4)
    held = np.zeros(2)
    for _ in range(300):
        sizes = rng.choice([5, 40], 60)
        hits = rng.binomial(sizes, rng.beta(9.0, 1.0, 60))  # 90 % on average
        found = intervals.clustered_interval(hits.tolist(), sizes.tolist())
        assert found is not None
        held[0] += found[0] <= 0.9 <= found[1]
        low, high = intervals.wilson_interval(int(hits.sum()), int(sizes.sum()))
        held[1] += low <= 0.9 <= high
    assert held[0] >= 0.9 * 300 and held[1] < 0.75 * 300


def test_an_interval_by_clusters_is_wilsons_where_each_holds_one_case() -> None:
    hits = [1] * 900 + [0] * 100
    low, high = intervals.wilson_interval(900, 1000)
    assert intervals.clustered_interval(hits, [1] * 1000) == pytest.approx(
        (low, high), abs=2e-4
    )
    # All or nothing of each: ten cases weigh as one.
    alike = intervals.clustered_interval([10] * 90 + [0] * 10, [10] * 100)
    assert alike == pytest.approx(intervals.wilson_interval(90, 100), abs=3e-3)
    # Never narrower than by clip, however evenly the hits lie.
    even = intervals.clustered_interval([9] * 100, [10] * 100) or (0, 0)
    assert even[0] <= low and even[1] >= high
    # Nobody ever wrong: as many cases as people.
    assert intervals.clustered_interval([10] * 100, [10] * 100) == pytest.approx(
        intervals.wilson_interval(100, 100), abs=2e-3
    )
    assert intervals.clustered_interval([10] * 9, [10] * 9) is None
    for hits, sizes in (([2], [1]), ([0], [0]), ([-1], [1]), ([1], [1, 1])):
        with pytest.raises(ValueError):
            intervals.clustered_interval(hits, sizes)


def test_students_t_is_that_of_tables() -> None:
    for freedom, t in ((9, 2.2622), (15, 2.1314), (30, 2.0423), (120, 1.9799)):
        assert intervals._t95(freedom) == pytest.approx(t, abs=1e-3)


def test_clips_are_counted_by_who_speaks(bundle: Bundle, pcm: np.ndarray) -> None:
    heard = engine.logits(bundle, pcm).argmax(axis=1)
    clips = clip_set(bundle, pcm, heard.tolist())
    assert evaluate.evaluate_clips(bundle, clips).speakers is None  # names tell none
    who = ["anna", "bert"] * len(pcm)
    names = [f"x/{name}_nohash_{i}.wav" for i, name in enumerate(who[: len(pcm)])]
    names[0] = "x/nobody.wav"
    label = heard.copy()
    label[[1, 3, 4]] = (label[[1, 3, 4]] + 1) % len(bundle.labels)
    clips = dataclasses.replace(clips, names=names, label=label.astype(np.int32))
    found = evaluate.evaluate_clips(bundle, clips).speakers
    assert found is not None
    berts = sum(name.startswith("x/bert") for name in names)
    assert (found.speakers, found.clips) == (2, len(pcm) - 1)
    assert found.hardest == (("bert", 2, berts),)  # anna's one may be anybody's
    assert found.ci95 is None and "too few" in found.text()
    assert found.as_dict()["hardest"] == [
        {"speaker": "bert", "wrong": 2, "clips": berts}
    ]


def test_agreement_counts_logits_and_labels(bundle: Bundle, pcm: np.ndarray) -> None:
    clips = clip_set(bundle, pcm, [0] * len(pcm))
    result = evaluate.evaluate_clips(bundle, clips)
    moved = result.logits.copy()
    moved[0, 0] = moved[0, 0] - 3 if moved[0, 0] > 0 else moved[0, 0] + 3
    other = evaluate.Evaluation(
        **{**vars(result), "logits": moved, "engine": "elsewhere"}
    )
    pair = evaluate.agreement(result, other)
    assert pair.largest == 3
    assert pair.equal == pytest.approx(1 - 1 / moved.size)
    assert evaluate.agreement(result, result).equal == 1.0
    real = evaluate.Evaluation(
        **{**vars(result), "logits": moved.astype(np.float32), "engine": "float"}
    )
    pair = evaluate.agreement(result, real)  # int8 steps and real numbers
    assert pair.equal is None and pair.largest is None and pair.same_label > 0.8


# So low thresholds that an untrained network hears words too.
EAGER = {
    "at_once": Detector(
        hop_frames=5, threshold=0.2, rearm=0.19, smoothing=1, refractory_ms=0
    ),
    "smoothed": Detector(threshold=0.2, rearm=0.15, smoothing=3, refractory_ms=700),
    "own_thresholds": Detector(
        hop_frames=10,
        word_thresholds=(0.2, 0.3, 0.25, 0.15),
        rearm=0.15,
        smoothing=2,
        refractory_ms=300,
    ),
}


def eager(bundle: Bundle, name: str) -> Bundle:
    recipe = dataclasses.replace(bundle.recipe, detector=EAGER[name])
    return dataclasses.replace(bundle, recipe=recipe)


@pytest.fixture(scope="module")
def stream(pcm: np.ndarray) -> np.ndarray:
    """24 seconds, and a rest that fills no frame."""
    return np.concatenate([*[pcm.reshape(-1)] * 4, pcm[1, :77]])


@pytest.mark.parametrize("name", EAGER)
def test_a_stream_gives_the_events_of_the_rules(
    name: str, bundle: Bundle, stream: np.ndarray
) -> None:
    run = eager(bundle, name)
    expected = reference_detector.detect(run, stream)
    assert len(expected) >= 5 and len({event[0] for event in expected}) >= 2
    events = [
        (
            event.word,
            round(event.start_s * 1000),
            round(event.time_s * 1000),
            round(event.score * reference_detector.ONE),
        )
        for event in engine.detect(run, stream)
    ]
    assert events == expected


def test_tape_scores_what_was_heard(bundle: Bundle, stream: np.ndarray) -> None:
    run = eager(bundle, "smoothed")
    events = reference_detector.detect(run, stream)
    word, _, end_ms, _ = events[0]
    end_s = end_ms / 1000
    alike = [event[2] / 1000 for event in events if event[0] == word]
    silent = next(
        label for label in bundle.labels[2:] if label not in {e[0] for e in events}
    )
    windows = [
        Window(word, end_s - 0.5, end_s),  # said and heard
        Window(silent, 1.0, 1.2),  # said, never heard
        Window("not a label", 2.0, 2.5),  # the network was not asked for it
    ]
    # Hits, misses and false alarms of each word. An event within a second of the last
    # one that counted is the same one.
    counts = {silent: [0, 1, 0]}
    for other in {event[0] for event in events}:
        last, counted = -9.0, 0
        for time_s in [event[2] / 1000 for event in events if event[0] == other]:
            if time_s - last > 1.0:
                last, counted = time_s, counted + 1
        hit = int(other == word)
        counts[other] = [hit, 0, counted - hit]
    assert alike[0] == end_s and sum(row[2] for row in counts.values()) > 2
    result = tapes.evaluate(run, [("tape", Tape(stream, windows))]).as_dict()
    assert result["words"] == 2
    assert result["hits"] == 1
    assert result["false_alarms"] == sum(row[2] for row in counts.values())
    rate = result["false_alarms"] / (len(stream) / 16000 / 3600)
    low, high = result["false_alarms_per_hour_ci95"]
    assert result["false_alarms_per_hour"] == pytest.approx(rate)
    assert low < rate < high
    json.dumps(result)
    with pytest.raises(KwsError, match="does not stream"):
        tapes.evaluate(run, [("tape", Tape(stream, windows))], "tflm")


def test_command_line(
    bundle: Bundle, pcm: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = clip_set(bundle, pcm, [0] * len(pcm))

    def load(split: str, task: Any, data: Any, limit: int | None, also: Any) -> ClipSet:
        assert (split, limit, also) == ("val", 6, ())
        return clips

    monkeypatch.setattr("kws.data.load", load)
    arguments = [str(bundle.path), "--split", "val", "--limit", "6"]
    result = CliRunner().invoke(
        command, [*arguments, "--engine", "tflm,host", "--json"]
    )
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout.strip().splitlines()[-1])
    assert table["engine"] == "tflm" and table["n"] == 6
    # An old name works, and is not what is printed.
    assert table["agreement"][0]["engines"] == ["tflm", "host"]
    assert table["agreement"][0]["equal_logits"] == 1.0
    text = CliRunner().invoke(command, arguments).stdout
    assert "of 6 clips right (95 %:" in text
