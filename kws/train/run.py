"""A run: clips and pool, float training, quantization-aware tuning, conversion.

`train` makes a network, `tune` takes another run's; all else is the same for both. What
can be refused is refused before TensorFlow is loaded, and before anything is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle as bundles
from kws import data, features, operating_points, pool
from kws import recipe as recipes
from kws.bundle import Bundle
from kws.data import ClipSet, Sources, ambient
from kws.data import tape as tapes_of
from kws.data.ambient import Sound
from kws.data.sources import counted
from kws.errors import KwsError, quoted
from kws.operating_points import Aim
from kws.pool import Pool
from kws.recipe import Recipe
from kws.train import choose, distribute, folder
from kws.train.loop import (
    FLOAT,
    QAT,
    Loop,
    Result,
    Schedule,
    judge,
    prepare,
    set_weights,
)


@dataclass(frozen=True)
class RunOptions:
    """How a run is made, beside its recipe: the same for `train` and `tune`.

    Args:
        data: Folder of clips; None looks in the usual places (kws.data.find_data).
        also: More folders of clips (kws.data.load).
        ambient: Folders of sound without the words (kws.data.ambient).
        teacher: What to distil from: .tflite files and runs (kws.teacher.Teacher).
        clean_teacher: More of them, that hear each recording as it is, not its copies
            (kws.teacher.Teachers).
        teacher_labels: Names of the .tflites' logits; () see kws.teacher.Teacher.
        pool: Where pools are kept for several runs; None: inside the run.
        distribute: none, mirrored or multiworker.
        restart: Forget what the run's folder holds.
        convert: Write model.tflite at the end.
        limit: First N clips of each split only (for trying things out).
        tape: Recordings with their truth beside them, or folders of such, which choose
            the tuning's epoch and the detector (kws/train/choose.py); () for neither.
        false_alarms: The most an hour on these; None: 0.5.
    """

    data: Path | None = None
    also: tuple[Path, ...] = ()
    ambient: tuple[Path, ...] = ()
    teacher: tuple[Path, ...] = ()
    clean_teacher: tuple[Path, ...] = ()
    teacher_labels: tuple[str, ...] = ()
    pool: Path | None = None
    distribute: str = "none"
    restart: bool = False
    convert: bool = True
    limit: int | None = None
    tape: tuple[Path, ...] = ()
    false_alarms: float | None = None


@dataclass(frozen=True)
class Run:
    """A run that is being made.

    Args:
        recipe: Its recipe.
        out: Its folder.
        options: How it is made.
        labels: Label names in logit order.
        strategy: A tf.distribute strategy.
        training: The training clips.
        validation: The validation clips.
        sounds: Ambient recordings of the split train.
        place: Of this worker in its cluster; 0 writes the run.
        began: time.monotonic() at its start.
        begins_from: SHA-256 of the weights that it begins with; empty: none.
        noises: Background noise to mix in.
        material: What it is trained on: what -> its hash.
        tapes: The recordings of `options.tape`.
    """

    recipe: Recipe
    out: Path
    options: RunOptions
    labels: tuple[str, ...]
    strategy: Any
    training: ClipSet
    validation: ClipSet
    sounds: list[Sound]
    place: int
    began: float
    begins_from: str
    noises: list[np.ndarray]
    material: dict[str, str]
    tapes: list[Path]


@dataclass(frozen=True)
class Material:
    """What the loops of a run take.

    Args:
        clips: The training pool.
        validation: Validation features int8 [N, frames, mel_bins] and labels [N].
        calibration: Unaugmented training features int8 [N, frames, mel_bins].
    """

    clips: Pool
    validation: tuple[np.ndarray, np.ndarray]
    calibration: np.ndarray


def train(
    recipe: Recipe,
    out: Path,
    options: RunOptions | None = None,
    source: Bundle | None = None,
) -> Bundle:
    """Float training, calibration, QAT and conversion, each gone on with if stopped.

    Args:
        recipe: The recipe.
        out: Folder of the run.
        options: How it is made.
        source: Begin with this network's weights, if any; of an equal `[model]`.

    Returns:
        The bundle at `out`; of a cluster, only the chief has written it.

    Raises:
        KwsError: bad input; CheckFailed: the conversion check did not hold.

    Example:
        >>> from kws import recipe as recipes
        >>> tiny = recipes.load("kwt-tiny")
        >>> train(tiny, Path("runs/tiny"))  # doctest: +SKIP
    """
    if source is not None:
        from kws.model.check import check_beginning

        check_beginning(source.recipe, recipe)
    with _begun(recipe, out, options or RunOptions(), source) as run:
        from kws.model import network as networks

        material = gather(run)
        with run.strategy.scope():
            if source is None:
                network = networks.build(recipe, len(run.labels))
            else:
                network = networks.begin_from(source, recipe, run.labels)
        result = _loop(run, material, network, FLOAT).run()
        set_weights(network, result.weights)
        return finish(run, material, network, float_result=result, fold=source is None)


def tune(
    source: Bundle,
    recipe: Recipe,
    out: Path,
    options: RunOptions | None = None,
    self_distill: bool = False,
) -> Bundle:
    """Calibrate and tune the weights of another bundle, into `out`.

    Args:
        source: Where the weights come from.
        recipe: The source's recipe, with other training settings where wanted. With
            another head_dim, mlp_rank, share or groups the weights are factorised
            first (kws/model/lowrank.py).
        out: Folder of the new run.
        options: How it is made.
        self_distill: Distil from `source` itself, as a float network without delta.

    Raises:
        KwsError: bad input; CheckFailed: the conversion check did not hold.
    """
    from kws.model.check import check_source

    check_source(source.recipe.model, recipe.model)
    if out.resolve() == source.path.resolve():
        raise KwsError(
            f"--out has to be another folder than the run. Received: {out}",
            f"kws tune {quoted(source.path)} --out {quoted(f'{out}-tuned')}",
        )
    labels = data.labels(recipe.task)
    if labels != source.labels:
        raise KwsError(
            f"The run's labels are not its task's. Expected {', '.join(labels)}. "
            f"Received: {', '.join(source.labels)}",
            f"Set [task] in a recipe: kws train --recipe my.toml --out {quoted(out)}",
        )
    tuned = {"weights": _digest(source.weights_path)}
    if self_distill:
        tuned["teachers"] = tuned["weights"]
    with _begun(recipe, out, options or RunOptions(), tuned=tuned) as run:
        from kws.model import lowrank
        from kws.model import network as networks

        network = networks.restore(source, "folded")
        if recipe.model != source.recipe.model:
            dense, network = network, networks.build(recipe, len(labels), "folded")
            lowrank.factorise(dense, network, recipe.model)
        material = gather(run)
        mentor = None
        if self_distill:
            with run.strategy.scope():
                mentor = networks.restore(source, "folded")
        # Thresholds count in steps of the ranges that they were chosen for.
        keep = (
            bool(recipe.quantize.delta_thresholds)
            and recipe.model == source.recipe.model
            and networks.calibrated(network)
        )
        return finish(
            run, material, network, fold=False, calibrate=not keep, mentor=mentor
        )


@contextlib.contextmanager
def _begun(
    recipe: Recipe,
    out: Path,
    options: RunOptions,
    source: Bundle | None = None,
    tuned: dict[str, str] | None = None,
) -> Iterator[Run]:
    """Check everything, lock the folder, read the clips, and only then TensorFlow.

    `tuned`: of a tuning, what it begins with and is taught by: what -> its hash.
    """
    from kws.model.check import check

    began = time.monotonic()
    check(recipe)
    if options.convert and recipe.model.family == "bc-resnet":
        print(
            "A trained bc-resnet may fail the conversion's check at the end: its "
            "twelve means are rounded twice each in int8 (docs/variants.md). "
            "--no-convert trains it for Keras alone",
            file=sys.stderr,
        )
    begins_from = "" if source is None else _digest(source.weights_path)
    features.check_length(recipe.task.clip_samples, recipe.features)
    labels = data.labels(recipe.task)
    place = distribute.check(options.distribute)
    _check_teaching(recipe, options, "teachers" in (tuned or {}))
    material = _taught(options) | (tuned or {})
    data.open_corpus(options.data)
    _check_apart(out, options)
    if options.pool is not None:
        bundles.check_folder(options.pool, options.pool, "--pool")
    tapes = _tapes(options, labels)
    with folder.locked(out, place):
        if place == 0:
            folder.start(recipe, out, options.restart, begins_from)
        sounds = _ambient(recipe, options, labels)
        training, validation = _read(recipe, options)
        noises = data.noise_bank(options.data, shortest=recipe.task.clip_samples)
        material |= _heard(training, validation, noises, sounds)
        if place == 0 and options.restart:
            folder.forget(out)
        elif place == 0:
            folder.check_material(out, material)
        if options.distribute == "multiworker":
            print("Waiting for the cluster's other workers", file=sys.stderr)
        strategy = distribute.strategy_of(options.distribute)
        prepare(recipe.train.seed)
        run = Run(
            recipe,
            out,
            options,
            labels,
            strategy,
            training,
            validation,
            sounds,
            place,
            began,
            begins_from,
            noises,
            material,
            tapes,
        )
        try:
            yield run
        except Exception as error:
            lost = None
            if options.distribute == "multiworker":
                lost = distribute.lost(error)
            if lost is None:
                raise
            raise lost from error


def _check_apart(out: Path, options: RunOptions) -> None:
    """Refuse to put the run among the recordings that it is trained on."""
    given = [options.data] if options.data is not None else []
    for named in (*given, *options.also, *options.ambient):
        if counted(named)[0].resolve() == out.resolve():
            raise KwsError(
                "A run can't lie among the recordings that it is trained on. Expected "
                f"another folder for --out. Received: {out}",
                f"--out {quoted(f'{out}-run')}",
            )


def _check_teaching(recipe: Recipe, options: RunOptions, by_itself: bool) -> None:
    """Refuse a teacher of whom nothing would be learnt; `by_itself`: it is the run."""
    teachers = [*options.teacher, *options.clean_teacher]
    labels = bool(teachers) and recipe.augment.splice_percent > 0
    if not (teachers or by_itself) or labels or recipe.train.distill_weight > 0:
        return
    named = ", ".join(map(str, teachers)) or "self"
    raise KwsError(
        "The recipe gives a teacher no say. Expected more than 0. Received: --teacher "
        f"{named}, [train] distill_weight = 0",
        "[train] distill_weight = 0.9   (in the recipe; or leave the teacher out)",
    )


def _tapes(options: RunOptions, labels: tuple[str, ...]) -> list[Path]:
    """The tapes that choose the epoch and the detector, if any."""
    most = "" if options.false_alarms is None else f" {options.false_alarms:g}"
    if not options.tape:
        if most:
            raise KwsError(
                f"False alarms are counted on tapes. Received: --false-alarms{most} "
                "without --tape",
                "kws data tape --out tapes/words.wav",
            )
        return []
    if not options.convert:
        raise KwsError(
            "The tapes are heard by what was converted. Expected --tape or "
            "--no-convert. Received: both",
            "Leave --no-convert out.",
        )
    tapes = tapes_of.files(options.tape)
    choose.check(tapes, labels)
    return tapes


def _read(recipe: Recipe, options: RunOptions) -> tuple[ClipSet, ClipSet]:
    """The clips of training and validation."""
    print("Reading clips", file=sys.stderr, flush=True)
    training, validation = (
        data.load(
            split,
            recipe.task,
            options.data,
            recipe.train.seed,
            options.limit,
            options.also,
            repeat=split == "train",
        )
        for split in ("train", "val")
    )
    counts = np.bincount(training.label, minlength=len(training.labels))
    empty = [name for name, n in zip(training.labels, counts, strict=True) if n == 0]
    if empty and empty != ["_unknown_"]:
        hint = "kws data verify DIR   (or leave the word out: --words ...)"
        if options.limit is not None:
            hint = f"Take more clips than --limit {options.limit}, or leave it out."
        raise KwsError(
            f"No training clips of {', '.join(empty)}. Expected some of every label. "
            f"Received: {len(training)} clips",
            hint,
        )
    print(
        data.overview(training, validation, recipe.task, options.data, options.also),
        file=sys.stderr,
    )
    return training, validation


def _ambient(
    recipe: Recipe, options: RunOptions, labels: tuple[str, ...]
) -> list[Sound]:
    """Ambient recordings to train on, if there are to be any."""
    if not options.ambient:
        return []
    if no_words(labels) == ():
        raise KwsError(
            "Ambient sound is no label of this task. Expected a task with silence and "
            f"unknown words. Received: {recipe.task.name}",
            "Leave --ambient out, or take another task: --task gsc12",
        )
    words = [
        label for label in labels if label not in (recipes.SILENCE, recipes.UNKNOWN)
    ]
    sounds = [
        sound
        for place in options.ambient
        for sound in ambient.recordings(place, "train", words)
    ]
    print(f"Ambient sound: {ambient.overview(sounds)}", file=sys.stderr)
    return sounds


def _taught(options: RunOptions) -> dict[str, str]:
    """What teaches a run, as of `Run.material`; a teacher that is none is refused."""
    if not (options.teacher or options.clean_teacher):
        return {}
    from kws import teacher

    digest = hashlib.sha256(",".join(options.teacher_labels).encode())
    for paths in (options.teacher, options.clean_teacher):
        for path in paths:
            digest.update(hashlib.sha256(teacher.read(path)[0]).digest())
        digest.update(b"|")
    return {"teachers": digest.hexdigest()}


def _heard(
    training: ClipSet,
    validation: ClipSet,
    noises: list[np.ndarray],
    sounds: list[Sound],
) -> dict[str, str]:
    """What a run hears, as of `Run.material`: the samples themselves, for a clip that
    was recorded anew, or another corpus, may have the same name."""
    clips = (training, validation)
    found = {
        "clips": " ".join(f"{c.manifest_hash} {c.audio_hash}" for c in clips),
        "background noise": ambient.fingerprint(noises),
    }
    if sounds:
        found["ambient sound"] = ambient.fingerprint(
            [sound.pcm for sound in sounds], [sound.kind for sound in sounds]
        )
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def no_words(labels: tuple[str, ...]) -> tuple[int, ...]:
    """Indices of the labels that are no words."""
    return tuple(
        index
        for index, label in enumerate(labels)
        if label in (recipes.SILENCE, recipes.UNKNOWN)
    )


def gather(run: Run) -> Material:
    """Make the run's pool, or find it made, and the other clips' features."""
    options, spec = run.options, run.recipe.features
    mentor = None
    if options.teacher or options.clean_teacher:
        from kws.teacher import Teacher, Teachers

        names = options.teacher_labels or None
        of_copies, of_clean = (
            [Teacher(path, run.recipe, run.labels, names) for path in paths]
            for paths in (options.teacher, options.clean_teacher)
        )
        mentor = Teachers(of_copies, of_clean)
    inside = run.out / "checkpoints"
    if run.place == 0:
        folder.claim(run.recipe, run.out, run.begins_from, run.material)
        data.remember(run.out, Sources(options.data, options.also, options.ambient))
        run.training.save(inside / "train.json")
        run.validation.save(inside / "val.json")
    clips = pool.build(
        run.training,
        run.noises,
        run.recipe,
        distribute.own_pool(options.pool or inside / "pool", run.place),
        mentor,
        run.sounds,
    )
    rng = np.random.default_rng(run.recipe.train.seed)
    count = min(len(run.training), run.recipe.quantize.calibration_clips)
    chosen = rng.permutation(len(run.training))[:count]
    return Material(
        clips,
        (features.of_clips(run.validation.pcm, spec), run.validation.label),
        features.of_clips(run.training.pcm[chosen], spec),
    )


def _loop(
    run: Run,
    material: Material,
    network: Any,
    phase: int,
    hold: Any = None,
    mentor: Any = None,
) -> Loop:
    section = run.recipe.train if phase == FLOAT else run.recipe.quantize

    def keep_epoch(epoch: int, weights: list[np.ndarray]) -> None:
        choose.keep_epoch(run.out, epoch, weights)

    silent = recipes.SILENCE in run.labels
    return Loop(
        network,
        run.recipe,
        Schedule(phase, section.epochs, section.learning_rate),
        material.clips,
        material.validation,
        run.out,
        run.strategy,
        run.labels.index(recipes.SILENCE) if silent else None,
        hold,
        mentor,
        no_words(run.labels),
        keep_epoch if phase == QAT else None,  # --tape may be asked for later
    )


def finish(
    run: Run,
    material: Material,
    network: Any,
    float_result: Result | None = None,
    fold: bool = True,
    calibrate: bool = True,
    mentor: Any = None,
) -> Bundle:
    """From a float network to the bundle: fold, calibrate, tune, convert.

    Args:
        run: The run.
        material: From `gather`.
        network: Mode `float` where `fold`, else mode `folded`.
        float_result: What the float phase reached, if there was one.
        fold: Fold the network first.
        calibrate: Set the activation ranges anew; otherwise they are `network`'s.
        mentor: See `Loop`.
    """
    from kws import quantize
    from kws.model import hold as holds
    from kws.model import network as networks

    recipe, out, count = run.recipe, run.out, len(run.labels)
    epochs: list[dict[str, Any]] = []
    folded = networks.fold(network, recipe, count) if fold else network
    ranges = 0
    if calibrate:
        ranges = quantize.calibrate(folded, recipe, material.calibration)
    with run.strategy.scope():
        tuned = networks.build(recipe, count, "qat")
    set_weights(tuned, [weight.numpy() for weight in folded.weights])
    with holds.holding(tuned, recipe, count) as hold:
        quantized = judge(tuned, recipe)(*material.validation)
        print(
            f"Quantized{', with thresholds,' if hold else ''} without tuning: "
            f"val {100 * quantized[0]:.2f} %",
            file=sys.stderr,
        )
        metrics: dict[str, Any] = {
            "training_clips": len(material.clips),
            "validation_clips": len(material.validation[1]),
            "parameters": int(sum(np.prod(w.shape) for w in network.trainable_weights)),
            "calibration_clips": ranges,
            "val_accuracy_ptq": quantized[0],
        }
        if float_result is not None:
            metrics["val_accuracy_float"] = float_result.best["val_accuracy"]
            metrics["epoch_float"] = float_result.best["epoch"]
        if recipe.quantize.epochs > 0:
            result = _loop(run, material, tuned, QAT, hold, mentor).run()
            set_weights(tuned, result.weights)
            metrics["val_accuracy_qat"] = result.best["val_accuracy"]
            metrics["epoch_qat"] = result.best["epoch"]
            epochs = result.history
    thresholds = {} if hold is None else hold.thresholds
    metrics["seconds"] = time.monotonic() - run.began
    bundle = Bundle(out, recipe, run.labels, thresholds, {"train": metrics})
    most = run.options.false_alarms
    aim = Aim(operating_points.FALSE_ALARMS if most is None else most)
    try:
        if run.place == 0:
            before = _as_it_was(run)
            if run.tapes and epochs:
                row = choose.best(
                    bundle, tuned, epochs, run.tapes, aim, material.calibration
                )
                metrics["val_accuracy_qat"] = row["val_accuracy"]
                metrics["epoch_qat"] = row["epoch"]
                metrics["seconds"] = time.monotonic() - run.began
            networks.save_weights(tuned, bundle)
            quantize.save_calibration(out, material.calibration)
            bundle.model_path.unlink(missing_ok=True)  # of weights that are no more
            bundles.save(bundle)
            if run.options.convert:
                from kws import convert as conversion

                bundle = conversion.convert(bundle, tuned, material.calibration)
                bundle = _with_choices(bundle, before)
            if run.tapes:
                bundle = _calibrate(run, bundle, aim)
    finally:
        distribute.wait_for_chief(run.strategy)
    if run.place:
        print("This worker is done; the chief says how the run ended.", file=sys.stderr)
    return bundle


def _as_it_was(run: Run) -> tuple[Bundle, bytes] | None:
    """The run of an earlier end of the same training, and its model; None: none."""
    if run.options.restart or not (run.out / "bundle.json").is_file():
        return None
    try:
        bundle = bundles.load(run.out)
        return bundle, bundle.model_bytes()
    except KwsError:
        return None


def _with_choices(bundle: Bundle, before: tuple[Bundle, bytes] | None) -> Bundle:
    """The bundle with what was chosen for the very same model since (kws calibrate, kws
    sweep, kws simulate --keep): a command that is typed again takes nothing back."""
    if before is None:
        return bundle
    old, model = before
    recipe = dataclasses.replace(bundle.recipe, detector=old.recipe.detector)
    same = recipe == dataclasses.replace(old.recipe, name=recipe.name)
    if model != bundle.model_bytes() or not same:
        return bundle
    kept = dataclasses.replace(
        bundle,
        recipe=recipe,
        thresholds=old.thresholds,
        metrics={**old.metrics, **bundle.metrics},
    )
    bundles.save(kept)
    if kept.hash != bundle.hash:
        print(
            "Kept: the detector and the delta thresholds that were chosen since "
            "(--restart forgets them)",
            file=sys.stderr,
        )
    return kept


def _calibrate(run: Run, bundle: Bundle, aim: Aim) -> Bundle:
    """The bundle with the detector that does best on the tapes."""
    words = ["kws", "calibrate", str(run.out)]
    for path in run.options.tape:
        words += ["--tape", str(path)]
    operating_points.calibrate(
        bundle,
        run.tapes,
        aim,
        shlex.join(words),
        lambda line: print(line, file=sys.stderr),
    )
    return bundles.load(run.out)
