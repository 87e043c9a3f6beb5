"""Delta thresholds on paper: the encoding, what is counted, a network run with them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from kws import bundle as bundles
from kws import recipe
from kws.bundle import Bundle
from kws.errors import KwsError
from kws.recipe import Features
from kws.simulate import KINDS, Thresholds, cost, delta, log_mel

LABELS = ("_silence_", "_unknown_", "yes", "no")


def tokens(rng, batch=3, rows=17, width=5, dtype=np.float32):
    """Rows that change slowly, now and then not at all, and jump once."""
    steps = rng.normal(0, 0.2, (batch, rows, width))
    steps[:, rows // 2] *= 10
    values = np.cumsum(np.where(rng.random(steps.shape) < 0.2, 0, steps), axis=1)
    if dtype == np.int8:
        return np.clip(np.rint(values * 40), -128, 127).astype(np.int8)
    return values.astype(dtype)


def slow_encode(values, threshold, dense_rows):
    """The rule as it is written, an element at a time."""
    held = np.array(values)
    sent = np.ones(values.shape, bool)
    batch, rows, width = values.shape
    for b, i, k in itertools.product(
        range(batch), range(dense_rows, rows), range(width)
    ):
        if values.dtype == np.int8:
            change = abs(int(values[b, i, k]) - int(held[b, i - 1, k]))
        else:
            change = abs(values[b, i, k] - held[b, i - 1, k])
        if not change > threshold:
            held[b, i, k] = held[b, i - 1, k]
            sent[b, i, k] = False
    return held, sent


# ---- the encoding ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("dense_rows", [1, 2, 17])
def test_encoding_is_the_rule(dtype, dense_rows):
    values = tokens(np.random.default_rng(1), dtype=dtype)
    threshold = np.float32(0.25) if dtype == np.float32 else 9
    encoded = delta.encode(values, threshold, dense_rows)
    held, sent = slow_encode(values, threshold, dense_rows)
    assert encoded.held.dtype == dtype
    np.testing.assert_array_equal(encoded.held, held)
    np.testing.assert_array_equal(encoded.sent.transpose(1, 0, 2), sent)
    np.testing.assert_array_equal(encoded.columns, sent.sum(axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_threshold_zero_holds_repeats_only_and_changes_no_bit(dtype):
    values = tokens(np.random.default_rng(2), dtype=dtype)
    encoded = delta.encode(values, 0)
    np.testing.assert_array_equal(encoded.held, values)
    changed = np.diff(values.astype(np.float64), axis=1) != 0
    np.testing.assert_array_equal(encoded.sent.transpose(1, 0, 2)[:, 1:], changed)
    assert not changed.all()


def test_every_element_stays_within_the_threshold_for_ever():
    rng = np.random.default_rng(3)
    values = np.cumsum(rng.normal(0, 0.05, (2, 2000, 8)), axis=1).astype(np.float32)
    held = delta.encode(values, 0.2).held
    assert np.abs(held - values).max() <= 0.2
    # The rule that this one replaces drifts away.
    change = np.diff(values, axis=1)
    drifted = values[:, :1] + np.cumsum(np.where(abs(change) > 0.1, change, 0), axis=1)
    assert np.abs(drifted - values[:, 1:]).max() > 0.5


def test_int8_differences_need_nine_bits():
    values = np.array([-128, 127, -128], np.int8).reshape(1, 3, 1)
    assert delta.encode(values, 254).held.ravel().tolist() == [-128, 127, -128]
    assert delta.encode(values, 255).held.ravel().tolist() == [-128, -128, -128]


def test_sums_of_transmitted_changes_are_the_product_of_what_is_held():
    """What the kernels do: int32 accumulators, only transmitted elements added."""
    rng = np.random.default_rng(4)
    values = tokens(rng, dtype=np.int8)
    weights = rng.integers(-127, 128, (5, 7)).astype(np.int32)
    encoded = delta.encode(values, 6)
    held = encoded.held.astype(np.int32)
    steps = np.diff(held, axis=1, prepend=np.zeros_like(held[:, :1]))
    assert not steps[~encoded.sent.transpose(1, 0, 2)].any()
    np.testing.assert_array_equal(np.cumsum(steps @ weights, axis=1), held @ weights)


def test_pairs_are_counted_one_by_one():
    rng = np.random.default_rng(5)
    query = delta.encode(tokens(rng), 0.3)
    key = delta.encode(tokens(rng), 0.2, dense_rows=2)
    expected = np.einsum("ibk,jbk->b", query.sent.astype(int), key.sent.astype(int))
    pairs = (query.columns * key.columns).sum(axis=-1)
    np.testing.assert_array_equal(pairs, expected)


@pytest.mark.parametrize(
    ("values", "threshold", "dense_rows"),
    [
        (np.zeros((1, 3, 2), np.float64), 0.1, 1),
        (np.zeros((3, 2), np.float32), 0.1, 1),
        (np.zeros((1, 3, 2), np.float32), -0.1, 1),
        (np.zeros((1, 3, 2), np.float32), float("nan"), 1),
        (np.zeros((1, 3, 2), np.int8), 0.5, 1),
        (np.zeros((1, 3, 2), np.int8), 1, 4),
        (np.zeros((1, 3, 2), np.int8), 1, 0),
    ],
)
def test_encoding_refuses(values, threshold, dense_rows):
    with pytest.raises(ValueError, match="Expected"):
        delta.encode(values, threshold, dense_rows)


# ---- what is counted -------------------------------------------------------------


def everything_sent(shape):
    """The counts of a network where every element was transmitted."""
    sent = {
        kind: np.full((1, shape.layers), shape.tokens * shape.columns(kind))
        for kind in KINDS
    }
    pairs = np.full((1, shape.layers), shape.tokens**2 * shape.inner)
    return cost.Counts(sent, pairs, (frozenset(KINDS),) * shape.layers)


@pytest.mark.parametrize(
    ("preset", "mhsa_layer", "mlp_layer", "total", "overhead_layer"),
    [  # Jelcicova and Verhelst's baseline, computed by hand for the published shapes
        ("kwt-1", 2_876_544, 3_244_032, 73.7e6, 35_145),
        ("kwt-2", 8_997_120, 12_976_128, 264.2e6, None),
        ("kwt-3", 18_361_728, 29_196_288, 571.5e6, 105_435),
    ],
)
def test_dense_macs_of_the_published_networks(
    preset, mhsa_layer, mlp_layer, total, overhead_layer
):
    shape = cost.shape_of(recipe.load(preset), 12)
    assert shape.tokens == 99
    assert shape.mhsa_macs == 12 * mhsa_layer
    assert shape.mlp_macs == mlp_layer
    # The papers count 40 cepstra into the dense layer; here 80 mel bins go in.
    macs = shape.macs - 98 * 40 * shape.dim
    assert macs == pytest.approx(total, rel=1e-3)
    if overhead_layer is not None:
        every_row = dataclasses.replace(shape, dense_rows=0)
        attention = (frozenset(cost.ATTENTION_KINDS),) * shape.layers  # not the MLP
        counts = dataclasses.replace(everything_sent(shape), encoded=attention)
        spent = cost.overhead(every_row, counts)
        assert spent["comparisons"] == spent["subtractions"] == 12 * overhead_layer


@pytest.mark.parametrize("preset", ["kwt-1", "kwt-3", "kwt-tiny"])
def test_with_everything_sent_nothing_is_cut(preset):
    shape = cost.shape_of(recipe.load(preset), 10)
    table = cost.summary(shape, everything_sent(shape))
    assert table["mhsa_mac_cut"] == table["mac_cut_rows"] == 0.0
    assert table["macs"]["mean"] == table["macs"]["p95"] == shape.macs
    assert set(table["cut"].values()) == {0.0}
    assert json.loads(json.dumps(table)) == table


def test_the_mean_and_the_percentile_are_over_clips():
    shape = cost.shape_of(recipe.load("kwt-1"), 12)
    whole = everything_sent(shape)
    share = np.linspace(0, 1, 21)[:, None]
    sent = {k: np.rint(share * v).astype(int) for k, v in whole.sent.items()}
    counts = cost.Counts(sent, np.rint(share * whole.pairs).astype(int), whole.encoded)
    table = cost.summary(shape, counts)
    assert table["mhsa_mac_cut"] == pytest.approx(0.5, abs=1e-4)
    assert table["mhsa_macs"]["p95"] == pytest.approx(0.95 * shape.mhsa_macs, rel=1e-4)


def test_dense_bytes_are_each_row_times_each_weight():
    shape = cost.shape_of(recipe.load("kwt-1"), 12)
    dense = dataclasses.replace(
        everything_sent(shape), encoded=(frozenset(),) * shape.layers
    )
    bytes_ = cost.traffic(shape, dense)
    assert bytes_["weights"] == 12 * 99 * 4 * 64 * 64
    assert bytes_["state"] == 0
    delta_bytes = cost.traffic(shape, everything_sent(shape))
    assert delta_bytes["weights"] == bytes_["weights"]
    # 12 layers x 99 rows: references read and written, accumulators both (4 bytes).
    columns = 64 + 64 + 99 + 64
    outputs = 3 * 64 + 99 + 64 + 64
    assert delta_bytes["state"] == 12 * 99 * (2 * columns + 8 * outputs)


# ---- thresholds as text ----------------------------------------------------------


def test_thresholds_are_read_and_written():
    thresholds = Thresholds.parse("3.X=0.25, X=0.3,P=5e-3", layers=4)
    assert thresholds["X", 0] == 0.3
    assert thresholds["X", 3] == 0.25
    assert thresholds["P", 2] == 0.005
    assert thresholds["Q", 0] < 0
    assert thresholds.encoded() == (frozenset("XP"),) * 4
    again = Thresholds.from_dict(thresholds.to_dict(), layers=4)
    np.testing.assert_array_equal(again.values, thresholds.values)
    assert Thresholds.parse("", layers=2).encoded() == (frozenset(),) * 2


def test_a_kind_that_one_layer_leaves_out_stays_left_out():
    thresholds = Thresholds.parse("0.Q=1,2.Q=1", layers=3)
    assert thresholds.to_dict() == {"0.Q": 1.0, "2.Q": 1.0}


@pytest.mark.parametrize(
    "text",
    [
        "X",
        "X=",
        "X=-1",
        "X=nan",
        "X=inf",
        "V=0.1",
        "4.X=0.1",
        "-1.X=0.1",
        "X=1e",
        "x=1",
    ],
)
def test_bad_thresholds_are_refused(text):
    with pytest.raises(KwsError, match="Bad threshold"):
        Thresholds.parse(text, layers=4)


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        '{"X": "0.3"}',
        '{"9.X": 1}',
        '{"\u00b2.X": 1}',  # a digit to Python, no number to it
        '{"X": 1' + "0" * 400 + "}",  # more than a float holds
        '{"' + "9" * 5000 + '.X": 1}',
        "nonsense",
    ],
)
def test_bad_threshold_files_are_refused(tmp_path, text):
    path = tmp_path / "thresholds.json"
    path.write_text(text)
    with pytest.raises(KwsError):
        Thresholds.read(f"@{path}", layers=4)


def test_a_missing_threshold_file_is_refused(tmp_path):
    with pytest.raises(KwsError, match="No such file"):
        Thresholds.read(f"@{tmp_path / 'none.json'}", layers=4)


# ---- float features --------------------------------------------------------------


@pytest.mark.parametrize("spec", [Features(), Features(mel_bins=80, power=1)])
def test_float_features_are_librosas_but_for_the_triangles(spec):
    pytest.importorskip("librosa")
    from kws.features.reference import mel_spectrum

    rng = np.random.default_rng(6)
    loudness = np.array([3, 300, 10000])[:, None]
    pcm = np.rint(rng.normal(0, 1, (3, 16000)) * loudness).clip(-32768, 32767)
    pcm = pcm.astype(np.int16)
    ours = log_mel.log_mel(pcm, spec, batch=2)
    for clip, mine in zip(pcm, ours, strict=True):
        theirs = np.log(np.maximum(mel_spectrum(clip, spec), log_mel.FLOOR))
        # Triangles in mel or in Hz: within a quarter of an int8 step.
        np.testing.assert_allclose(mine, theirs, atol=spec.scale / 4)
    silent = log_mel.log_mel(np.zeros((1, 16000), np.int16), spec)
    np.testing.assert_allclose(silent, np.log(log_mel.FLOOR), rtol=1e-6)


def test_mel_triangles_are_those_of_tensorflow():
    pytest.importorskip("tf_keras")
    from kws.model.keras import tf

    spec = Features(mel_bins=80)
    theirs = tf.signal.linear_to_mel_weight_matrix(80, 257, 16000, 20.0, 7600.0)
    np.testing.assert_allclose(log_mel.mel_matrix(spec), theirs.numpy(), atol=2e-5)


# ---- networks --------------------------------------------------------------------


def small_bundle(path: Path, variant: str) -> Bundle:
    """An untrained small network as a bundle."""
    pytest.importorskip("tf_keras")
    from networks_for_tests import awake, small

    from kws import model

    spec = small(variant)
    folded = model.fold(awake(spec, len(LABELS)), spec, len(LABELS))
    path.mkdir(parents=True)
    folded.save_weights(str(path / "weights.h5"))
    bundle = Bundle(path=path, recipe=spec, labels=LABELS)
    bundles.save(bundle)
    return bundles.load(path)


def some_features(spec: Features, clips: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    shape = (clips, spec.frames, spec.mel_bins)
    return np.cumsum(rng.normal(0, 0.2, shape), axis=1).astype(np.float32)


@pytest.mark.parametrize("variant", ["tiny", "published", "two heads, hard swish"])
def test_simulated_networks(tmp_path, variant):
    from kws import model
    from kws.simulate import Simulator

    bundle = small_bundle(tmp_path / "run", variant)
    simulator = Simulator(bundle)
    shape = simulator.shape
    features = some_features(bundle.recipe.features, 5)
    expected = model.restore(bundle)(features, training=False).numpy()

    dense = simulator.run(features, Thresholds.dense(2))
    np.testing.assert_allclose(dense.logits, expected, atol=2e-5)
    assert dense.cost()["mhsa_mac_cut"] == 0.0
    assert dense.cost()["subtractions"] == 0

    zero = simulator.run(features, Thresholds.parse("X=0,Q=0,K=0,P=0,O=0,M=0,H=0", 2))
    np.testing.assert_array_equal(zero.logits, dense.logits)
    assert zero.cost()["mhsa_mac_cut"] < 0.05

    held = simulator.run(
        features, Thresholds.parse("X=9e9,Q=9e9,K=9e9,P=9e9,O=9e9,M=9e9,H=9e9", 2)
    )
    for kind in KINDS:  # the dense rows, and nothing else
        rows = shape.dense_rows * shape.columns(kind)
        np.testing.assert_array_equal(held.counts.sent[kind], rows)
    np.testing.assert_array_equal(held.counts.pairs, shape.dense_rows**2 * shape.inner)
    assert np.abs(held.logits - dense.logits).max() > 1e-3

    # One threshold in one layer: that tensor alone, and only from that layer on.
    for kind in KINDS:
        one = simulator.run(features, Thresholds.parse(f"1.{kind}=0.05", 2))
        for other in KINDS:
            sent, whole = one.counts.sent[other], dense.counts.sent[other]
            np.testing.assert_array_equal(sent[:, 0], whole[:, 0])
            assert (sent[:, 1] < whole[:, 1]).any() == (kind == other)


def test_a_prefix_spares_work_and_changes_nothing(tmp_path):
    from kws.simulate import Simulator

    bundle = small_bundle(tmp_path / "run", "published")
    simulator = Simulator(bundle)
    features = some_features(bundle.recipe.features, 5)
    base = Thresholds.parse("X=0.1,K=0.2", 2)
    prefix = simulator.prefix(features, base)
    for text in ("X=0.1,K=0.2", "X=0.1,K=0.2,1.Q=0.1", "X=0.1,K=0.2,0.Q=0.1"):
        thresholds = Thresholds.parse(text, 2)
        plain = simulator.run(features, thresholds)
        spared = simulator.run(features, thresholds, prefix=prefix)
        np.testing.assert_array_equal(spared.logits, plain.logits)
        np.testing.assert_array_equal(spared.counts.pairs, plain.counts.pairs)
        for kind in KINDS:
            np.testing.assert_array_equal(
                spared.counts.sent[kind], plain.counts.sent[kind]
            )


def test_ladders_are_quantiles_of_the_change_from_row_to_row(tmp_path):
    from kws.simulate import Simulator

    bundle = small_bundle(tmp_path / "run", "published")
    simulator = Simulator(bundle)
    features = some_features(bundle.recipe.features, 8)
    rungs = simulator.changes(features, (0.25, 0.5, 0.9))
    assert rungs.shape == (3, 2, len(KINDS))
    assert (np.diff(rungs, axis=0) > 0).all()
    # In the units of thresholds: a threshold at the median holds about half or more.
    for kind, value in zip(KINDS, rungs[1, 0], strict=True):
        run = simulator.run(features, Thresholds.parse(f"0.{kind}={value}", 2))
        whole = simulator.shape.tokens * simulator.shape.columns(kind)
        assert 0.1 < run.counts.sent[kind][:, 0].mean() / whole < 0.6


def test_a_run_without_keras_weights_is_refused(tmp_path):
    from kws.simulate import Simulator

    bundle = small_bundle(tmp_path / "run", "tiny")
    bundle.weights_path.unlink()
    with pytest.raises(KwsError, match="no Keras weights"):
        Simulator(bundle)


# ---- the published network -------------------------------------------------------

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

# shared/pretrained/README.md: thresholds, percent of words and unknown, cuts in percent
ORACLE = [
    ("", 97.6, 0, 0, 0, 0, 0),
    ("X=.1,Q=.1,K=.1,P=.001,O=.02", 97.6, 32.4, 80.5, 71.5, 69.4, 56.6),
    ("X=.3,Q=.3,K=.3,P=.005,O=.05", 97.2, 67.5, 97.6, 92.9, 88.5, 82.6),
    ("X=.8,Q=.8,K=.8,P=.02,O=.2", 79.7, 90.8, 99.8, 97.5, 97.2, 95.2),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A simulator of the published KWT-1, and the 500 clips of the table."""
    file = SHARED / "pretrained" / "kwt1_float.tflite"
    listed = file.with_name("delta_table_clips.txt")
    audio = Path(os.environ.get("KWS_DATA", SHARED / "data" / "speech_commands"))
    if not listed.is_file() or not (audio / "test_v0.02" / "index.tsv").is_file():
        pytest.skip(f"no published weights or no audio in {SHARED}")
    pytest.importorskip("tf_keras")
    from kws.data import archives, open_corpus
    from kws.model.import_kwt import import_kwt
    from kws.simulate import Simulator

    bundle = import_kwt(file, tmp_path_factory.mktemp("kwt1") / "run")
    clips = {clip.name: clip for clip in open_corpus(audio).recordings("test")}
    chosen = [clips[name] for name in listed.read_text().split()]
    label = []
    for name in (clip.name for clip in chosen):
        word = name.split("/")[0]
        label.append(bundle.labels.index(word) if word in bundle.labels else 1)
    simulator = Simulator(bundle)
    pcm = archives.read_clips(chosen).pcm
    return simulator, simulator.features(pcm), np.array(label)


@pytest.mark.parametrize("row", ORACLE, ids=lambda row: row[0] or "dense")
def test_the_published_network_gives_the_table(published, row):
    simulator, features, label = published
    theta, accuracy, *cuts, total = row
    start = time.monotonic()
    run = simulator.run(features, Thresholds.parse(theta, 12))
    spoken = label != 0
    right = int((run.logits.argmax(axis=1) == label)[spoken].sum())
    table = run.cost()
    print(theta, right, table["cut"], f"{500 / (time.monotonic() - start):.0f} clips/s")
    assert spoken.sum() == 457
    assert abs(right - 4.57 * accuracy) <= 1.25  # one clip, and the table's rounding
    for name, expected in zip(cost.PRODUCTS, cuts, strict=True):
        assert 100 * table["cut"][name] == pytest.approx(expected, abs=0.5)
    assert 100 * table["mhsa_mac_cut"] == pytest.approx(total, abs=0.5)
