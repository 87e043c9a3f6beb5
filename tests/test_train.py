"""Training: learns, resumes to the same bits after a kill, same seed same result."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import small_corpus  # noqa: E402
import toolbox  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from networks_for_tests import small  # noqa: E402

from kws import bundle as bundles  # noqa: E402
from kws import data, operating_points, pool, progress, train  # noqa: E402
from kws import recipe as recipes  # noqa: E402
from kws.cli import cli  # noqa: E402
from kws.cli.data import after_recording  # noqa: E402
from kws.cli.train import command as train_command  # noqa: E402
from kws.cli.tune import command as tune_command  # noqa: E402
from kws.data import augment, record, tape  # noqa: E402
from kws.data.audio import wav_bytes  # noqa: E402
from kws.data.tape import Window  # noqa: E402
from kws.errors import CheckFailed, KwsError  # noqa: E402
from kws.layers.keras import tf, tf_keras  # noqa: E402
from kws.model import check, network  # noqa: E402
from kws.recipe import Recipe, Task  # noqa: E402
from kws.train import choose, folder  # noqa: E402
from kws.train import optimizer as optimizers  # noqa: E402

LABELS = 3
CLIPS = 40

# Two devices for the mirrored strategy; possible only before TensorFlow starts.
with contextlib.suppress(RuntimeError):
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )


def recipe_of(**settings: Any) -> Recipe:
    base = small("tiny", layers=1, dropout=0.1)
    settings = {"epochs": 4, "batch_size": 8, "mixup": 0.2} | settings
    return dataclasses.replace(base, train=dataclasses.replace(base.train, **settings))


def clips_of(spec: Recipe, teacher: bool = False) -> pool.Pool:
    """Two copies of clips whose label is the loud third of the mel bins."""
    rng = np.random.default_rng(2)
    label = (np.arange(CLIPS) % LABELS).astype(np.int32)
    shape = (2, CLIPS, spec.features.frames, spec.features.mel_bins)
    features = rng.normal(-60, 10, shape)
    for clip, third in enumerate(label):
        features[:, clip, :, third * 13 : third * 13 + 13] += 40
    logits = None
    if teacher:
        logits = 4 * np.eye(LABELS, dtype=np.float32)[label][None].repeat(2, 0)
    return pool.Pool(features.astype(np.int8), label, logits)


def loop_of(
    spec: Recipe, folder: Path, clips: pool.Pool, strategy: Any = None, **options: Any
) -> train.Loop:
    strategy = strategy or train.strategy_of("none")
    train.prepare(spec.train.seed)
    with strategy.scope():
        net = network.build(spec, LABELS)
    schedule = train.Schedule(train.FLOAT, spec.train.epochs, 1e-2)
    validation = (clips.features[0], clips.label)
    return train.Loop(
        net, spec, schedule, clips, validation, folder, strategy, **options
    )


def state(loop: train.Loop) -> list[np.ndarray]:
    return [variable.numpy() for variable in loop._variables()]


@pytest.mark.parametrize("optimizer", check.OPTIMIZERS)
def test_a_killed_run_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    spec = recipe_of(optimizer=optimizer)
    clips = clips_of(spec, teacher=True)
    whole = loop_of(spec, tmp_path / "whole", clips)
    result = whole.run()
    # It learned, and the same seed gives the same bits.
    assert result.best["val_accuracy"] > 0.9
    twin = loop_of(spec, tmp_path / "twin", clips)
    twin_result = twin.run()
    for a, b in zip(state(whole), state(twin), strict=True):
        assert np.array_equal(a, b)

    killed = loop_of(spec, tmp_path / "killed", clips)
    honest = pool.batches

    def deadly(*args: Any) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(honest(*args)):
            if args[4] == 2 and step == 3:  # the epoch
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(pool, "batches", deadly)
    with pytest.raises((KeyboardInterrupt, tf.errors.OpError)):
        killed.run()
    monkeypatch.setattr(pool, "batches", honest)
    assert len(train_rows(tmp_path / "killed")) == 2
    tf_keras.utils.set_random_seed(12345)  # another process, another start
    resumed = loop_of(spec, tmp_path / "killed", clips)
    resumed.network.get_layer("head").dense.kernel.assign_add(
        tf.ones_like(resumed.network.get_layer("head").dense.kernel)
    )
    resumed_result = resumed.run()
    for a, b in zip(state(whole), state(resumed), strict=True):
        assert np.array_equal(a, b)
    for a, b in zip(result.weights, resumed_result.weights, strict=True):
        assert np.array_equal(a, b)
    keys = ("epoch", "train_loss", "val_loss", "val_accuracy")
    for a, b, c in zip(
        result.history, resumed_result.history, twin_result.history, strict=True
    ):
        assert [a[k] for k in keys] == [b[k] for k in keys] == [c[k] for k in keys]
    assert len(train_rows(tmp_path / "killed")) == 4
    assert list((tmp_path / "whole" / "tensorboard" / "float").glob("events*"))


def train_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_broken_checkpoint_is_one_clear_message(tmp_path: Path) -> None:
    spec = recipe_of(epochs=1)
    file = tmp_path / "checkpoints" / "float.npz"
    file.parent.mkdir()
    file.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(KwsError, match="can't be read") as error:
        loop_of(spec, tmp_path, clips_of(spec)).run()
    assert "--restart" in error.value.hint


def test_curves_that_cannot_be_written_are_one_clear_message(tmp_path: Path) -> None:
    spec = recipe_of(epochs=1)
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(KwsError, match="curves can't be written") as error:
        loop_of(spec, tmp_path, clips_of(spec)).run()
    assert "rerun" in error.value.hint


def test_muon_moves_hidden_matrices_by_their_directions_alone() -> None:
    spec = recipe_of(optimizer="muon", weight_decay=0.0, warmup=0.0)
    net = network.build(spec, LABELS)
    moved = {weight.name for weight in optimizers.hidden_matrices(net)}
    assert {"stem/embed/kernel:0", "block0/expand/kernel:0"} <= moved
    assert not moved & {weight.name for weight in network.of_labels(net)}
    assert all(weight.shape.rank > 1 for weight in optimizers.hidden_matrices(net))

    rng = np.random.default_rng(3)
    before = {weight.name: weight.numpy() for weight in net.trainable_weights}
    gradients = [rng.normal(size=w.shape) * 1e-3 for w in net.trainable_weights]
    # One direction is a hundred times as strong as the others.
    for weight, gradient in zip(net.trainable_weights, gradients, strict=True):
        if weight.name == "block0/expand/kernel:0":
            gradient += 0.1 * np.outer(gradient[:, 0], gradient[0]) / 1e-6
    for name in check.OPTIMIZERS:
        train_ = dataclasses.replace(spec.train, optimizer=name)
        made = optimizers.make(
            net, dataclasses.replace(spec, train=train_), 1e-3, steps=10
        )
        made.apply_gradients(
            [
                (tf.constant(g, tf.float32), w)
                for g, w in zip(gradients, net.trainable_weights, strict=True)
            ]
        )
        steps = {w.name: before[w.name] - w.numpy() for w in net.trainable_weights}
        for weight in net.trainable_weights:
            weight.assign(before[weight.name])
        if name == "adamw":
            adamw = steps
    for key, step in steps.items():
        if key not in moved:
            assert np.array_equal(step, adamw[key]), key
            continue
        flat = step.reshape(-1, step.shape[-1]) / 1e-3
        values = np.linalg.svd(flat / np.sqrt(max(flat.shape)) / optimizers.RMS)[1]
        assert values.max() < 1.3, key
        assert values.min() > 0.2, key


@pytest.mark.parametrize("optimizer", check.OPTIMIZERS)
def test_mirrored_replicas_train_the_same_network(
    tmp_path: Path, optimizer: str
) -> None:
    """Two replicas on half a batch each: the same steps but for rounding."""
    if len(tf.config.list_logical_devices("CPU")) < 2:
        pytest.skip("needs two logical devices (asked for before TensorFlow starts)")
    spec = recipe_of(epochs=2, mixup=0.0, optimizer=optimizer)
    spec = dataclasses.replace(
        spec, model=dataclasses.replace(spec.model, dropout=0.0, stem="patch")
    )
    clips = clips_of(spec)
    one = loop_of(spec, tmp_path / "one", clips).run()
    strategy = train.strategy_of("mirrored")
    assert strategy.num_replicas_in_sync == 2
    two = loop_of(spec, tmp_path / "two", clips, strategy).run()
    for a, b in zip(one.history, two.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)


def test_batches_depend_on_seed_phase_and_epoch_alone() -> None:
    spec = recipe_of()
    clips = clips_of(spec)
    first = list(pool.batches(clips, spec, 8, train.FLOAT, 3))
    again = list(pool.batches(clips, spec, 8, train.FLOAT, 3))
    other = list(pool.batches(clips, spec, 8, train.QAT, 3))
    assert len(first) == CLIPS // 8
    for a, b in zip(first, again, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)
    assert any(
        not np.array_equal(a["label"], b["label"])
        for a, b in zip(first, other, strict=True)
    )
    assert all(0.5 <= share <= 1 for batch in first for share in batch["share"])


def test_the_pool_is_made_once_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = small_corpus.make(tmp_path / "audio")
    spec = small("tiny")
    spec = dataclasses.replace(
        spec, augment=dataclasses.replace(spec.augment, variants=3)
    )
    clips = data.load("train", Task("custom", words=("yes", "no")), audio)
    noises = data.noise_bank(audio)
    calls: list[int] = []
    honest = augment.augment_many

    def counted(pcm: Any, seed: int, *rest: Any) -> Any:
        if len(calls) == 2 and limit:
            raise KeyboardInterrupt
        calls.append(seed)
        return honest(pcm, seed, *rest)

    monkeypatch.setattr(augment, "augment_many", counted)
    limit = True
    with pytest.raises(KeyboardInterrupt):
        pool.build(clips, noises, spec, tmp_path / "pool")
    limit = False
    resumed = pool.build(clips, noises, spec, tmp_path / "pool")
    assert len(calls) == 3 and len(set(calls)) == 3
    whole = pool.build(clips, noises, spec, tmp_path / "whole")
    assert np.array_equal(resumed.features, whole.features)
    pool.build(clips, noises, spec, tmp_path / "pool")
    assert len(calls) == 6  # found made
    # Another corpus may have the same names: before, its training took this pool.
    other = dataclasses.replace(clips, pcm=clips.pcm[:, ::-1].copy())
    theirs = pool.build(other, noises, spec, tmp_path / "pool")
    assert len(calls) == 9 and not np.array_equal(theirs.features, whole.features)
    louder = [np.full_like(noise, 3000) for noise in noises]
    pool.build(clips, louder, spec, tmp_path / "pool")
    assert len(calls) == 12


RECIPE = (
    small_corpus.NETWORK
    + """\
[augment]
variants = 4
noise_probability = 0.0
speed = 0.0
[train]
batch_size = 4
epochs = 8
learning_rate = 0.01
[quantize]
epochs = 1
"""
)


def test_the_command_trains_tunes_and_converts(tmp_path: Path) -> None:
    audio = small_corpus.make(tmp_path / "audio")
    (tmp_path / "my.toml").write_text(RECIPE)
    run = tmp_path / "run"
    options = ["--recipe", str(tmp_path / "my.toml"), "--words", "yes,no"]
    options += ["--data", str(audio), "--out", str(run), "--json"]
    first = invoke(train_command, options)
    assert first["labels"] == ["_silence_", "_unknown_", "yes", "no"]
    assert first["conversion"]["holds"] and first["model_bytes"] > 1000
    loaded = bundles.load(run)
    assert loaded.hash == first["hash"]
    assert [row["phase"] for row in train_rows(run)] == ["float"] * 8 + ["qat"]
    # Again: all is there, nothing is trained twice, the same model comes out, with what
    # was chosen for it since: before, that was taken back without a word.
    before = {p: p.stat().st_mtime_ns for p in (run / "checkpoints").glob("*t.npz")}
    detector = dataclasses.replace(loaded.recipe.detector, threshold=0.9, smoothing=2)
    spec = dataclasses.replace(loaded.recipe, detector=detector)
    metrics = {**loaded.metrics, "operating_point": {"after": {"missed": 1}}}
    chosen = dataclasses.replace(
        loaded, recipe=spec, thresholds={"0.X": 2}, metrics=metrics
    )
    bundles.save(chosen)
    assert invoke(train_command, options)["hash"] == chosen.hash != first["hash"]
    again = bundles.load(run)
    assert (again.recipe, again.thresholds) == (spec, {"0.X": 2})
    assert again.metrics["operating_point"] == metrics["operating_point"]
    assert again.model_bytes() == loaded.model_bytes()
    assert before == {p: p.stat().st_mtime_ns for p in before}
    bundles.save(loaded)
    # Another recipe in the same folder is refused.
    with pytest.raises(KwsError, match="another recipe"):
        invoke(train_command, [*options, "--epochs", "9"])
    nothing_goes_on_with_what_it_never_heard(tmp_path, run, audio, options)
    # Its int8 model is a teacher.
    options = [str(run), "--data", str(audio), "--out", str(tmp_path / "student")]
    options += ["--teacher", str(run / "model.tflite"), "--epochs", "1", "--json"]
    tuned = invoke(tune_command, options)
    assert tuned["conversion"]["holds"]
    (logits,) = (tmp_path / "student/checkpoints/pool").glob("*/teacher.npy")
    distilled = np.load(logits)
    assert distilled.shape[0] == 4 and distilled.shape[2] == 4
    assert distilled.std() > 0
    splices_are_labelled_by(run, audio, tmp_path / "spliced")
    another_training_begins_from(run, audio, tmp_path / "grown")
    tapes_choose_the_epoch(run, audio, tmp_path)


def test_what_comes_next_can_be_typed_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On words of one's own, in two folders: nothing is set, nothing said again."""
    monkeypatch.delenv("KWS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    small_corpus.make(tmp_path / "recordings", ("yes", "cat", "dog"))
    small_corpus.make(tmp_path / "spoken", ("no", "bird"))
    (tmp_path / "my.toml").write_text(RECIPE)
    line = (
        "kws train --recipe my.toml --words yes,no --data recordings --also spoken "
        "--epochs 1 --variants 1 --qat-epochs 0 --no-convert --out 'my runs/robot 1'"
    )
    lines, ran = [line], []
    while lines:
        words = shlex.split(lines.pop(0))[1:]
        ran.append(words[0])
        # Of the boards' builds other tests have enough.
        quicker = ["--fit", "none"] if words[0] == "report" else []
        done = CliRunner().invoke(cli, [*words, *quicker], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        said = done.output.splitlines()
        lines += [t.removeprefix("Next: ") for t in said if t.startswith("Next: ")]
        if words[0] == "eval":
            heard = done.output
        if words[0] == "convert":
            assert any(t.startswith("Curves: ") and "tensorboard" in t for t in said)
    assert ran == ["train", "convert", "eval", "report"]
    page = (tmp_path / "my runs" / "robot 1" / "report.html").read_text()
    assert 'id="curve-loss"' in page and page.count("<audio") == page.count(
        "data:audio"
    )
    assert "of 8 clips right" in heard  # yes, no, unknown and silence
    run = tmp_path / "my runs" / "robot 1"
    # A tuned run remembers them too; so does what only measures.
    for line, told in (
        (f"tune {run.name} --out ../tuned --qat-epochs 0 --no-convert", "kws convert"),
        (f"simulate {run.name} --split val --theta X=0", "of 8 clips right"),
    ):
        with monkeypatch.context() as there:
            there.chdir(run.parent)
            words = shlex.split(line.replace(run.name, f"'{run.name}'"))
            done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0 and told in done.output
    tuned = bundles.load(tmp_path / "tuned")
    assert tuned.recipe.name == "tuned"
    assert data.of_run(tuned) == data.of_run(bundles.load(run)) != data.Sources()
    loaded = bundles.load(run)
    assert loaded.recipe.name == "robot 1"
    # What is remembered is this machine's, and no part of the bundle.
    (run / data.sources.FILE).unlink()
    assert bundles.load(run) == loaded and bundles.load(run).hash == loaded.hash


def test_what_comes_after_recording_can_be_typed_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few tones in place of a person's words: too few first, then enough."""
    toolbox.need_espeak()
    monkeypatch.chdir(tmp_path)
    made = record.Session(
        Path("my voice"), record.prompts(["go", "hey robot"], 3, ["no"], 3, 10)
    )
    anna = made.join("Anna", hidden=False)
    rng = np.random.default_rng(0)
    assert after_recording(made, "go on") == "go on"
    for place, prompt in enumerate(made.asked):
        for take in range(prompt.wanted):
            pcm = rng.integers(-9, 10, round(prompt.seconds * 16000)).astype(np.int16)
            if prompt.kind != record.ROOM:
                pcm[11000:17000] += small_corpus.tone(400 + 90 * place + take, 6000)
            assert made.add(anna, place, pcm, 16000).problem == ""
    synth, training = after_recording(made, "").split(" && ")
    for line in (
        f"{synth} --clips-per-word 10 --unknown 10 --voices espeak",
        f"{training} --epochs 1 --variants 1 --qat-epochs 0 --no-convert",
    ):
        done = CliRunner().invoke(cli, shlex.split(line)[1:], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    run = bundles.load(tmp_path / "runs" / "my voice")
    assert run.labels == ("_silence_", "_unknown_", "go", "hey robot")


def test_folders_that_are_remembered_and_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, here, there = (tmp_path / name for name in ("run", "here", "there"))
    for path in (run, here, there):
        path.mkdir()
    bundle = bundles.Bundle(run, small("tiny"), ("a",))
    assert data.of_run(bundle) == data.Sources()
    data.remember(run, data.Sources(here, (there,)))
    assert data.of_run(bundle) == data.Sources(here, (there,))
    assert f"Clips as in its training: {here}, {there}" in capsys.readouterr().err
    assert data.of_run(bundle, there) == data.Sources(there)  # said: nothing is guessed
    assert data.of_run(bundle, also=(run,)) == data.Sources(here, (there, run))
    # What is known already is not added again, and how often it counts is kept.
    assert data.of_run(bundle, also=(there,)) == data.Sources(here, (there,))
    data.remember(run, data.Sources(Path(f"{here}:8"), (there,)))
    assert data.of_run(bundle).data == Path(f"{here}:8")
    assert data.of_run(bundle, also=(here,)).also == (there,)
    assert data.remembered(bundle)[:2] == ["--data", f"{here}:8"]
    data.remember(run, data.Sources(here, (there,)))
    there.rmdir()
    with pytest.raises(KwsError, match="not there any more") as caught:
        data.of_run(bundle)
    assert str(there) in caught.value.message and "--data DIR" in caught.value.hint
    assert data.of_run(bundle, here) == data.Sources(here)
    (run / data.sources.FILE).write_text("[]")
    with pytest.raises(KwsError, match="audio.json"):
        data.of_run(bundle)
    data.remember(run, data.Sources())
    assert data.of_run(bundle) == data.Sources()


def test_a_run_has_its_folders_name_unless_it_has_one(tmp_path: Path) -> None:
    named, plain = tmp_path / "named.toml", tmp_path / "plain.toml"
    named.write_text('name = "Kitchen"\n')
    plain.write_text("")
    for text, name in (("kwt-tiny", "mine"), (plain, "mine"), (named, "Kitchen")):
        assert recipes.load(text, "mine").name == name
    # A run that was made elsewhere, or whose checkpoints are gone, is not written over.
    (tmp_path / "bundle.json").write_text("{}")
    with pytest.raises(KwsError, match="nothing to go on with") as caught:
        folder.start(small("tiny"), tmp_path, restart=False)
    assert "--restart" in caught.value.hint
    folder.start(small("tiny"), tmp_path, restart=True)
    # A run that is moved while it is made goes on: its name is not what it computes.
    spec = small("tiny")
    folder.claim(spec, tmp_path)
    folder.start(dataclasses.replace(spec, name="moved"), tmp_path, restart=False)
    other = dataclasses.replace(spec, train=dataclasses.replace(spec.train, seed=2))
    with pytest.raises(KwsError, match="another recipe"):
        folder.start(other, tmp_path, restart=False)


def test_a_training_writes_over_nothing_that_no_training_made(tmp_path: Path) -> None:
    """A recipe with notes, somebody's metrics and, with --restart, another program's
    checkpoints were gone."""
    spec, out = small("tiny"), tmp_path / "my net"
    (out / "checkpoints").mkdir(parents=True)
    for name in ("lock", "pool-1", ".DS_Store"):  # of a worker, or of a dead process
        (out / "checkpoints" / name).touch()
    (out / "train.log").touch()
    folder.start(spec, out, restart=False)
    others = ("recipe.toml", "checkpoints/model.ckpt", "tensorboard")
    for name in (*others, "corpus.json", "_background_noise_"):  # and of a corpus
        (out / name).write_text("mine")
        for restart in (False, True):
            with pytest.raises(KwsError, match=f"no training has made.*{name}") as told:
                folder.start(spec, out, restart)
            assert told.value.hint == f"--out '{out}-run'"
        assert (out / name).read_text() == "mine"
        (out / name).unlink()
    # What was forgotten is the folder of a run still, whatever happens next.
    folder.claim(spec, out)
    (out / "audio.json").touch()
    folder.forget(out)
    folder.start(recipe_of(), out, restart=False)


def test_a_command_that_is_refused_forgets_nothing(tmp_path: Path) -> None:
    """With --restart, checkpoints were deleted before the clips were looked at."""
    audio, out = small_corpus.make(tmp_path / "audio"), tmp_path / "run"
    spec = dataclasses.replace(small("tiny"), task=Task("custom", words=("yes", "no")))
    folder.claim(spec, out)
    (out / "results.csv").write_text("mine")
    options = train.RunOptions(data=audio, limit=1, restart=True)
    with pytest.raises(KwsError, match="No training clips of ") as caught:
        train.train(spec, out, options)
    assert caught.value.hint == "Take more clips than --limit 1, or leave it out."
    assert (out / "results.csv").read_text() == "mine"
    folder.start(spec, out, restart=False)
    for place, option, given in (
        (out, "--pool", next((audio / "yes").iterdir())),
        (out / "results.csv", "--out", None),
        (out / "results.csv" / "run", "--out", None),
    ):  # the last was: The system refused
        with pytest.raises(KwsError, match=f"is no folder.*{option}"):
            train.train(spec, place, train.RunOptions(data=audio, pool=given))
    for options in (
        train.RunOptions(data=audio.parent / "audio:2"),
        train.RunOptions(data=audio, ambient=(tmp_path / "." / "audio",)),
    ):
        with pytest.raises(KwsError, match="among the recordings"):
            train.train(spec, audio, options)


def test_an_epoch_that_does_not_convert_is_left_out_of_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --tape one such epoch ended the tuning, however often it was typed again."""
    bundle = bundles.Bundle(tmp_path, small("tiny"), ("_silence_", "_unknown_", "yes"))
    history = [{"epoch": epoch, "val_accuracy": 0.5} for epoch in (1, 2, 3)]
    for row in history:
        choose.keep_epoch(tmp_path, row["epoch"], [np.full(1, row["epoch"])])
    loaded: list[bytes] = []
    heard: dict[int, Any] = {}

    def hear(*_: Any) -> Any:
        found = heard[len(loaded)]
        if found is None:
            raise CheckFailed(f"The converted model {len(loaded)}", "a hint")
        return found

    monkeypatch.setattr(choose, "_load", lambda tuned, data: loaded.append(data))
    monkeypatch.setattr(choose, "_hear", hear)
    arguments = (bundle, None, history, [], operating_points.Aim(1.0), np.zeros(0))
    heard.update({1: None, 2: None, 3: None})
    with pytest.raises(CheckFailed, match="The converted model 3"):
        choose.best(*arguments)
    loaded.clear()
    heard.update({1: (2, 0), 3: (1, 0)})
    assert choose.best(*arguments)["epoch"] == 3
    assert "epoch 2: not heard, its conversion does not hold" in capsys.readouterr().err


def test_one_training_at_a_time_in_a_folder(tmp_path: Path) -> None:
    """Two of them would both run to the end, and then both fail."""
    out = tmp_path / "run"
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from kws.train import folder\n"
        "with folder.locked(Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with (
            pytest.raises(KwsError, match="Another training") as caught,
            folder.locked(out),
        ):
            pass
        assert f"{out}, process {other.pid} on " in caught.value.message
        with folder.locked(out, place=1):  # another worker of its cluster
            pass
        other.send_signal(signal.SIGKILL)
    assert (out / "checkpoints" / "lock").is_file()  # a dead one keeps nobody out
    with folder.locked(out):
        (out / "checkpoints" / "float.npz").touch()
        folder.forget(out)
        with pytest.raises(KwsError, match="Another training"), folder.locked(out):
            pass
    assert not out.exists()  # nothing came into it


def test_the_rate_is_counted_from_the_restart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step of 100 s that compiles, then steps of 1 s: 90 s for the other 90."""
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = progress.Progress("float", 100)
    clock[0] += 100
    bar.restart(1)
    for step in range(2, 11):
        clock[0] += 1
        bar.at(step)
    clock[0] += 20
    bar.at(30)
    assert (
        capsys.readouterr().err
        == "float: 2 %, 1 min 38 s left\nfloat: 30 %, 1 min 10 s left\n"
    )


def test_the_step_that_compiles_is_no_measure_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 clips a second, after a step of 100 s."""
    spec = recipe_of(epochs=1)
    loop = loop_of(spec, tmp_path, clips_of(spec))
    clock = [0.0]
    monkeypatch.setattr(train.loop.time, "monotonic", lambda: clock[0])
    honest, seconds = loop._train_step, iter([100.0, 1.0, 1.0, 1.0, 1.0])

    def slow(batch: Any) -> Any:
        clock[0] += next(seconds)
        return honest(batch)

    monkeypatch.setattr(loop, "_train_step", slow)
    (row,) = loop.run().history
    assert row["samples_per_second"] == loop.batch == 8
    assert row["seconds"] == 104


def splices_are_labelled_by(run: Path, audio: Path, folder: Path) -> None:
    from kws.teacher import Teacher, Teachers

    loaded = bundles.load(run)
    spec = dataclasses.replace(
        loaded.recipe,
        augment=dataclasses.replace(
            loaded.recipe.augment, variants=2, splice_percent=50
        ),
    )
    clips = data.load("train", spec.task, audio)
    assert len(pool.build(clips, [], spec, folder)) == len(clips)  # nobody to ask
    listener = Teacher(run / "model.tflite", spec, loaded.labels)
    teacher = Teachers([listener])
    made = pool.build(clips, [], spec, folder, teacher)
    kept = len(made) - len(clips)
    assert 0 < kept <= round(len(clips) / 2)
    assert made.features.shape[:2] == made.teacher.shape[:2] == (2, len(made))
    assert np.array_equal(made.label[: len(clips)], clips.label)
    assert not np.any(made.label[len(clips) :] == 0)  # silence is our own
    # What the teacher hears in the copies is mostly what it heard in the splice.
    heard = made.teacher[:, len(clips) :].argmax(axis=2)
    assert (heard == made.label[len(clips) :]).mean() > 0.5
    (labels,) = folder.glob("*/label.npy")
    before = labels.stat().st_mtime_ns
    again = pool.build(clips, [], spec, folder, teacher)  # found made
    assert np.array_equal(again.label, made.label)
    assert labels.stat().st_mtime_ns == before
    # A teacher of clean sound hears each recording once: a splice is what it was
    # labelled as, in every copy, whatever noise the copies have.
    noises = [np.random.default_rng(1).integers(-9000, 9000, 20000).astype(np.int16)]
    clean = pool.build(clips, noises, spec, folder, Teachers(of_clean=[listener]))
    heard = clean.teacher.argmax(axis=2)
    assert np.array_equal(heard[0], heard[1])
    assert np.array_equal(heard[0, len(clips) :], clean.label[len(clips) :])
    assert not np.array_equal(clean.features[0], clean.features[1])


def nothing_goes_on_with_what_it_never_heard(
    tmp_path: Path, run: Path, audio: Path, options: list[str]
) -> None:
    """Before: recordings that were added, or another teacher, changed nothing, and the
    old accuracy was told of the new clips."""
    anew = shutil.copytree(audio, tmp_path / "anew")
    clip = anew / "yes" / f"{small_corpus.SPEAKERS['train'][0]}_nohash_0.wav"
    clip.write_bytes(wav_bytes(small_corpus.tone(900)))
    weights = (run / "weights.h5").read_bytes()
    for more, what in (
        (["--data", str(anew)], "other clips"),
        (["--also", str(anew)], "other clips"),
        (["--limit", "9"], "other clips"),
        (["--ambient", str(audio / "_background_noise_")], "other ambient sound"),
        (["--teacher", str(run / "model.tflite")], "other teachers"),
    ):
        with pytest.raises(KwsError, match=f"trained with {what}") as caught:
            invoke(train_command, [*options, *more])
        assert "--restart" in caught.value.hint
    assert (run / "weights.h5").read_bytes() == weights
    for file in (anew / "_background_noise_").iterdir():
        file.write_bytes(wav_bytes(small_corpus.tone(90, 30 * 16000)))
    with pytest.raises(KwsError, match="other clips and background noise"):
        invoke(train_command, [*options, "--data", str(anew)])
    # A run of an earlier version did not note it; nor does one without a checkpoint.
    state = run / "checkpoints" / "run.json"
    noted = json.loads(state.read_text())
    folder.check_material(run, noted["material"])
    material = noted.pop("material") | {"weights": "another run's"}
    with pytest.raises(KwsError, match="other weights"):
        folder.check_material(run, material)
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    shutil.copy(state, tmp_path / "begun" / "checkpoints")
    folder.check_material(tmp_path / "begun", material)
    before = state.read_bytes()
    state.write_text(json.dumps(noted))
    folder.check_material(run, material)
    state.write_bytes(before)


def another_training_begins_from(run: Path, audio: Path, out: Path) -> None:
    """kws train --from: what it knows of words that stay it keeps."""
    loaded = bundles.load(run)
    source = network.restore(loaded, "folded")
    labels = ("_silence_", "_unknown_", "cat", "yes")
    begun = network.begin_from(loaded, loaded.recipe, labels)
    theirs, mine = source.get_layer("head"), begun.get_layer("head")
    for part in ("kernel", "bias"):
        old = getattr(theirs.dense, part).numpy()
        new = getattr(mine.dense, part).numpy()
        assert np.array_equal(new[..., [0, 1, 3]], old[..., [0, 1, 2]])
        assert not np.array_equal(new[..., 2], old[..., 3])  # cat is not no
    for weight, value in zip(
        begun.get_layer("stem").weights, source.get_layer("stem").weights, strict=True
    ):
        assert np.array_equal(weight.numpy(), value.numpy())
    options = ["--from", str(run), "--words", "cat,yes", "--data", str(audio)]
    options += ["--out", str(out), "--qat-epochs", "0", "--json"]
    made = invoke(train_command, options)
    assert made["labels"] == list(labels) and made["conversion"]["holds"]
    grown = bundles.load(out).recipe
    assert grown.name == "grown" and grown.model == loaded.recipe.model
    assert grown.train.epochs == 2 and grown.train.learning_rate == 0.01 / 4
    with pytest.raises(KwsError, match=r"same shape.*\[features\] hop"):
        invoke(train_command, [*options, "--preset", "kwt-stream-tiny"])
    # What comes of other weights is another run.
    state = json.loads((out / "checkpoints" / "run.json").read_text())
    assert state["begins_from"]
    with pytest.raises(KwsError, match="another recipe"):
        folder.start(grown, out, restart=False, begins_from="0" * 64)


def tapes_choose_the_epoch(run: Path, audio: Path, tmp_path: Path) -> None:
    """kws tune --tape: what is kept is the epoch that the board's C hears best with."""
    tapes = tmp_path / "tapes"
    tapes.mkdir()
    words = [("yes", 300), ("no", 400), ("cat", 500)] * 6
    tone = np.concatenate([small_corpus.tone(hertz) for _, hertz in words])
    (tapes / "words.wav").write_bytes(wav_bytes(tone))
    said = [Window(word, at, at + 1.0) for at, (word, _) in enumerate(words)]
    tape.write_windows(tapes / "words.tsv", said)
    out = tmp_path / "heard"
    options = [str(run), "--data", str(audio), "--out", str(out), "--json"]
    options += ["--epochs", "3", "--learning-rate", "0.05", "--tape", str(tapes)]
    options += ["--false-alarms", "600"]
    # An earlier call was without tapes: its epochs are kept as well.
    invoke(tune_command, options[:10])
    invoke(tune_command, options)
    made, place = bundles.load(out), out / "checkpoints" / "heard"
    heard = json.loads((place / "heard.json").read_text())
    best = min(tuple(counts) for counts in heard.values())
    assert len(heard) == 3
    table = json.loads((out / "operating_points.json").read_text())
    assert table["aim"]["false_alarms"] == 600 and table["words"] == 12
    # What stayed is one of the best, by the same C on the same tapes.
    aim = operating_points.Aim(600)
    recording = ("words", tape.open_tape(tapes / "words.wav"))
    plain = dataclasses.replace(made, recipe=bundles.load(place).recipe)
    with operating_points.listening(plain, [recording]) as listener:
        assert operating_points.reached(listener, aim) == best
    chosen = made.metrics["train"]["epoch_qat"]
    with np.load(place / f"epoch-{chosen:03}.npz") as kept:
        expected = [kept[f"arr_{i}"] for i in range(len(kept.files))]
    found = network.restore(made, "qat").weights
    assert all(
        np.array_equal(a.numpy(), b) for a, b in zip(found, expected, strict=True)
    )
    # Again: nothing is heard twice.
    before = (place / "heard.json").stat().st_mtime_ns
    invoke(tune_command, options)
    assert (place / "heard.json").stat().st_mtime_ns == before
    # Refused before anything is trained, or where the epochs are gone.
    for more, told in (
        (["--no-convert"], "Expected --tape or --no-convert"),
        (["--tape", str(tmp_path / "none.wav")], "No such recording"),
    ):
        with pytest.raises(KwsError, match=told):
            invoke(tune_command, [*options, *more])
    with pytest.raises(KwsError, match="counted on tapes"):
        invoke(tune_command, [*options[:10], "--false-alarms", "2"])
    tape.write_windows(tapes / "words.tsv", [Window("bird", 0.0, 1.0)])
    with pytest.raises(KwsError, match="No word of the network's"):
        invoke(tune_command, options)
    tape.write_windows(tapes / "words.tsv", said)
    (place / "heard.json").write_text(json.dumps(dict.fromkeys(heard)))
    with pytest.raises(CheckFailed, match="No epoch's network.*--false-alarms 600"):
        invoke(tune_command, options)
    (place / "epoch-002.npz").unlink()
    with pytest.raises(KwsError, match="Epoch 2 of the tuning was not kept"):
        invoke(tune_command, options)


def invoke(command: Any, options: list[str]) -> dict[str, Any]:
    result = CliRunner().invoke(command, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "neither a .tflite"),
        (b"This is a text file, named .tflite by mistake.", "no TFL3 mark"),
        (b"\x1c\0\0\0TFL3" + bytes(64), "can't run the teacher"),
    ],
    ids=["empty", "text", "nothing but the mark"],
)
def test_a_bad_teacher_is_refused(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    from kws.teacher import Teacher

    file = tmp_path / "teacher.tflite"
    file.write_bytes(content)
    with pytest.raises(KwsError, match=expected):
        Teacher(file, small("tiny"), ("_silence_", "_unknown_", "yes"))


def test_a_teacher_without_a_say_is_refused(tmp_path: Path) -> None:
    """Before it labels the pool, which is hours; its splices alone are a say."""
    recipe = small("tiny")
    settings = dataclasses.replace(recipe.train, distill_weight=0.0)
    recipe = dataclasses.replace(recipe, train=settings)
    options = train.RunOptions(clean_teacher=(tmp_path / "none.tflite",))
    with pytest.raises(KwsError, match=r"no say.*distill_weight = 0"):
        train.train(recipe, tmp_path / "run", options)
    spliced = dataclasses.replace(recipe.augment, splice_percent=10.0)
    recipe = dataclasses.replace(recipe, augment=spliced)
    with pytest.raises(KwsError, match=r"neither a \.tflite"):
        train.train(recipe, tmp_path / "run", options)
    assert list(tmp_path.iterdir()) == []


def test_the_published_teacher_maps_to_gsc10() -> None:
    """Its 12 logits are gsc12's; on and off are left out."""
    from kws.teacher import Teacher

    root = Path(os.environ.get("KWS_SHARED", Path(__file__).parents[2] / "shared"))
    file = root / "pretrained" / "kwt1_float.tflite"
    if not file.is_file():
        pytest.skip(f"the published KWT-1 is not at {file}")
    teacher = Teacher(file, small("tiny"), data.labels(Task("gsc10")))
    assert teacher.takes_audio
    assert teacher.columns == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11]
    with pytest.raises(KwsError, match="does not know marvin"):
        Teacher(file, small("tiny"), ("_silence_", "_unknown_", "marvin"))


@pytest.mark.parametrize(("mixup", "fined"), [(0.0, True), (0.2, False)])
def test_between_two_mixed_clips_a_mirrors_word_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixup: float, fined: bool
) -> None:
    """Between clips 0 and 2 label 1 is heard: clip 1's, which is mixed into clip 2."""
    from kws.model import stream

    spec = recipe_of(mixup=mixup, between=1.0)
    net = network.build(spec, LABELS)
    heard = tf.constant([[0.0, 50.0, 0.0], [50.0, 0.0, 0.0]])

    def trained(network: Any, recipe: Recipe) -> Any:
        def forward(real: Any, step: Any) -> tuple[Any, Any]:
            zero = 0.0 * network(real, training=True)
            return zero, zero[:2] + heard

        return forward

    monkeypatch.setattr(stream, "trained", trained)
    clips = clips_of(spec)
    causal = dataclasses.replace(
        spec, model=dataclasses.replace(spec.model, causal=True)
    )
    loop = train.Loop(
        net,
        causal,
        train.Schedule(train.FLOAT, 1, 1e-3),
        clips,
        (clips.features[0], clips.label),
        tmp_path,
        train.strategy_of("none"),
    )
    shape = (4, spec.features.frames, spec.features.mel_bins)
    loss = loop._train_step(
        {
            "features": tf.zeros(shape, tf.int8),
            "label": tf.constant([0, 1, 2, 0]),
            "share": tf.fill([4], 0.6),
        }
    )
    assert (float(loss) > 5) == fined


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_logits_leave_out_how_frequent_a_label_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Of logits that are alike the loss is the frequencies' own, in part or whole."""
    from kws.model import stream

    spec = recipe_of(mixup=0.0, label_smoothing=0.0, logit_adjustment=share)
    net = network.build(spec, LABELS)

    def trained(network: Any, recipe: Recipe) -> Any:
        return lambda real, step: (0.0 * network(real, training=True), None)

    monkeypatch.setattr(stream, "trained", trained)
    clips = clips_of(spec)
    label = np.where(np.arange(CLIPS) % 4 == 0, 1, 2).astype(np.int32)  # never 0
    clips = dataclasses.replace(clips, label=label)
    causal = dataclasses.replace(
        spec, model=dataclasses.replace(spec.model, causal=True)
    )
    strategy = train.strategy_of("none")
    schedule = train.Schedule(train.FLOAT, 1, 1e-3)
    judged = (clips.features[0], clips.label)
    loop = train.Loop(net, causal, schedule, clips, judged, tmp_path, strategy)
    shape = (loop.batch, spec.features.frames, spec.features.mel_bins)
    loss = loop._train_step(
        {
            "features": tf.zeros(shape, tf.int8),
            "label": tf.fill([loop.batch], 1),
            "share": tf.ones([loop.batch]),
        }
    )
    odds = np.maximum(np.bincount(label, minlength=LABELS) / CLIPS, 1 / CLIPS) ** share
    assert np.isclose(float(loss), -np.log(odds[1] / odds.sum()), atol=1e-5)
