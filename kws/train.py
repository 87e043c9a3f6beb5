"""Training: float, then quantization-aware, each a resumable loop over the pool.

What a run computes is a function of the recipe, the clips and the seed. Every epoch
ends with a checkpoint of everything that the next one needs, and every random choice
is drawn from (seed, phase, epoch): so a run that was killed goes on to the same
weights as one that was not.

    out/results.csv      one line per epoch
    out/tensorboard/     the same as curves (pip install tensorboard to see them)
    out/checkpoints/     the pool and the loops' state; may be deleted after training
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle as bundles
from kws import data, features, pool
from kws import recipe as recipes
from kws.bundle import Bundle
from kws.data import ClipSet
from kws.errors import KwsError
from kws.pool import Pool
from kws.progress import Progress, duration
from kws.recipe import Recipe

FLOAT, QAT = 0, 1
PHASES = ("float", "qat")
COLUMNS = (
    "phase",
    "epoch",
    "learning_rate",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "samples_per_second",
    "seconds",
)


@dataclass(frozen=True)
class Schedule:
    """How one phase trains.

    Args:
        phase: FLOAT or QAT.
        epochs: Passes over the clips.
        learning_rate: Peak, after the warm-up.
    """

    phase: int
    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class Result:
    """What one phase reached.

    Args:
        weights: The best epoch's averaged weights, in the order of network.weights.
        best: That epoch's row of the results table.
        history: All rows.
    """

    weights: list[np.ndarray]
    best: dict[str, Any]
    history: list[dict[str, Any]]


def prepare(seed: int) -> None:
    """Seed everything and ask TensorFlow for its deterministic operators."""
    from kws.layers.keras import tf, tf_keras

    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def strategy_of(name: str) -> Any:
    """The tf.distribute strategy of `--distribute`.

    `multiworker` reads the cluster from TF_CONFIG, as TensorFlow documents; start the
    same command on every worker.

    Raises:
        KwsError: no such strategy, or no cluster.
    """
    from kws.layers.keras import tf

    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (ValueError, RuntimeError) as error:
            raise KwsError(
                f"No cluster: expected TF_CONFIG to describe one. Received: {error}",
                "https://www.tensorflow.org/guide/distributed_training#TF_CONFIG",
            ) from None
    raise KwsError(
        f"No such strategy. Expected none, mirrored or multiworker. Received: {name!r}",
        "kws train --distribute mirrored",
    )


def is_chief(strategy: Any) -> bool:
    """True on the worker that writes files (the only one, but for multiworker)."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    return resolver.task_type == "chief" or (
        resolver.task_type == "worker" and resolver.task_id == 0
    )


def own_pool(folder: Path | None, out: Path, strategy: Any) -> Path:
    """Folder of this worker's pool: workers may share --out, but not a file."""
    folder = folder or out / "checkpoints" / "pool"
    if is_chief(strategy):
        return folder
    return folder.with_name(f"{folder.name}-{strategy.cluster_resolver.task_id}")


class Loop:
    """One phase of training a network.

    Args:
        network: The network; its weights are trained in place. Built under `strategy`.
        recipe: The recipe.
        schedule: Epochs and learning rate of this phase.
        clips: The training pool.
        validation: Features int8 [N, frames, mel_bins] and labels int32 [N].
        folder: The run; checkpoints, results and curves go there.
        strategy: A tf.distribute strategy.
        silence: Index of the label that is not distilled (a teacher's silence is made
            another way than ours), or None.
        hold: Delta thresholds that the network runs with (kws/model/hold.py), or None.
        mentor: A network of the same labels to distil from, on every batch as it is
            trained on, or None.
    """

    def __init__(
        self,
        network: Any,
        recipe: Recipe,
        schedule: Schedule,
        clips: Pool,
        validation: tuple[np.ndarray, np.ndarray],
        folder: Path,
        strategy: Any,
        silence: int | None = None,
        hold: Any = None,
        mentor: Any = None,
    ) -> None:
        from kws.layers.keras import tf
        from kws.model import network as networks

        self.hold, self.mentor = hold, mentor
        self.network, self.recipe, self.schedule = network, recipe, schedule
        self.clips, self.validation = clips, validation
        self.folder, self.strategy, self.silence = folder, strategy, silence
        self.name = PHASES[schedule.phase]
        self.checkpoint = folder / "checkpoints" / f"{self.name}.npz"
        self.batch = batch_size(recipe, len(clips), strategy.num_replicas_in_sync)
        self.steps = len(clips) // self.batch
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.best_weights: list[np.ndarray] = []
        with strategy.scope():
            self.optimizer = _optimizer(
                network, recipe, schedule, self.steps * schedule.epochs
            )
            self.averages = [
                tf.Variable(
                    weight,
                    trainable=False,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
                for weight in network.trainable_weights
            ]
        self._train_step = _train_step(self)
        self._predict = networks.predictor(network, recipe)

    # What a checkpoint holds, in a fixed order.
    def _variables(self) -> list[Any]:
        return [*self.network.weights, *self.optimizer.variables, *self.averages]

    def run(self) -> Result:
        """Train to the end, from the last checkpoint if there is one."""
        from kws.layers.keras import tf

        first = self._restore()
        chief = is_chief(self.strategy)
        writer: Any = None
        if chief and first < self.schedule.epochs:
            curves = self.folder / "tensorboard" / self.name
            writer = tf.summary.create_file_writer(str(curves))
        total = self.schedule.epochs * self.steps
        bar = Progress(self.name, total, start=first * self.steps)
        for epoch in range(first, self.schedule.epochs):
            row = self._epoch(epoch, bar)
            self.history.append(row)
            weights = self._averaged()
            # On a tie the later epoch: it has seen more.
            if row["val_accuracy"] >= self.best.get("val_accuracy", -1.0):
                self.best, self.best_weights = row, weights
            left = (total - bar.done) * self.batch / row["samples_per_second"]
            print(
                f"{self.name} {epoch + 1}/{self.schedule.epochs}: loss "
                f"{row['train_loss']:.4f}, val {100 * row['val_accuracy']:.2f} % (best "
                f"{100 * self.best['val_accuracy']:.2f}), "
                f"{row['samples_per_second']:.0f} samples/s, {duration(left)} left",
                file=sys.stderr,
                flush=True,
            )
            if chief:
                with writer.as_default(step=epoch):
                    for key in COLUMNS[2:]:
                        write_scalar(key, row[key])
            self._save(chief)
            if chief:
                write_results(self.folder, self.name, self.history)
        if writer is not None:
            writer.close()
        return Result(self.best_weights, self.best, self.history)

    def _epoch(self, epoch: int, bar: Progress) -> dict[str, Any]:
        from kws.layers.keras import tf

        begin = time.monotonic()
        losses = []
        for step, batch in enumerate(self._dataset(epoch)):
            losses.append(self._train_step(batch))
            if step % 8 == 7:  # not every step: reading the loss waits for it
                bar.at(epoch * self.steps + step + 1, f"loss {float(losses[-1]):.3f}")
        train_loss = float(tf.reduce_mean(losses))
        seconds = time.monotonic() - begin
        bar.at((epoch + 1) * self.steps)
        if not math.isfinite(train_loss):
            raise KwsError(
                f"Training diverged: the loss is {train_loss} in {self.name} epoch "
                f"{epoch + 1}. Expected a finite loss.",
                "Lower [train] learning_rate (or [quantize] learning_rate) and rerun.",
                exit_code=1,
            )
        accuracy, val_loss = self._validate()
        return {
            "phase": self.name,
            "epoch": epoch + 1,
            "learning_rate": float(self.optimizer.learning_rate.numpy()),
            "train_loss": train_loss,
            "val_loss": val_loss,
            "val_accuracy": accuracy,
            "samples_per_second": self.steps * self.batch / seconds,
            "seconds": seconds,
        }

    def _dataset(self, epoch: int) -> Any:
        """Batches of one epoch; a replica's share of each where there are several."""
        from kws.layers.keras import tf

        spec = self.recipe.features
        replicas = self.strategy.num_replicas_in_sync
        local = self.batch // replicas
        kinds = {
            "features": tf.TensorSpec((local, spec.frames, spec.mel_bins), tf.int8),
            "label": tf.TensorSpec((local,), tf.int32),
            "share": tf.TensorSpec((local,), tf.float32),
        }
        if self.clips.teacher is not None:
            labels = self.clips.teacher.shape[-1]
            kinds["teacher"] = tf.TensorSpec((local, labels), tf.float32)

        def shards(context: Any) -> Any:
            here, pipelines = 0, 1
            if context is not None:
                here = context.input_pipeline_id
                pipelines = context.num_input_pipelines
            mine = range(
                here * replicas // pipelines, (here + 1) * replicas // pipelines
            )

            def parts() -> Any:
                for batch in pool.batches(
                    self.clips, self.recipe, self.batch, self.schedule.phase, epoch
                ):
                    for replica in mine:
                        part = slice(replica * local, (replica + 1) * local)
                        yield {key: value[part] for key, value in batch.items()}

            return tf.data.Dataset.from_generator(
                parts, output_signature=kinds
            ).prefetch(2)

        if replicas == 1:
            return shards(None)
        return self.strategy.distribute_datasets_from_function(shards)

    def _averaged(self) -> list[np.ndarray]:
        """network.weights with the moving averages in place of what is trained."""
        average = dict(
            zip(
                (id(weight) for weight in self.network.trainable_weights),
                self.averages,
                strict=True,
            )
        )
        return [average.get(id(w), w).numpy() for w in self.network.weights]

    def _validate(self) -> tuple[float, float]:
        """(accuracy, cross entropy) of the averaged weights on the validation set."""
        kept = [weight.numpy() for weight in self.network.weights]
        set_weights(self.network, self._averaged())
        logits = self._predict(self.validation[0])
        set_weights(self.network, kept)
        return score(logits, self.validation[1])

    def _save(self, write: bool) -> None:
        # Every worker reads: some variables are averaged over workers on reading.
        arrays = {f"v{i}": v.numpy() for i, v in enumerate(self._variables())}
        arrays |= {f"best{i}": v for i, v in enumerate(self.best_weights)}
        text = json.dumps({"history": self.history, "best": self.best})
        arrays["state"] = np.frombuffer(text.encode(), np.uint8)
        if not write:
            return
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        bundles.write_atomic(self.checkpoint, buffer.getvalue())

    def _restore(self) -> int:
        """Load the last checkpoint; the number of epochs that it has behind it."""
        if not self.checkpoint.is_file():
            return 0
        try:
            with np.load(self.checkpoint, allow_pickle=False) as arrays:
                state = json.loads(bytes(arrays["state"]))
                values = [arrays[f"v{i}"] for i in range(len(self._variables()))]
                self.best_weights = [
                    arrays[f"best{i}"] for i in range(len(self.network.weights))
                ]
            for variable, value in zip(self._variables(), values, strict=True):
                variable.assign(value)
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise KwsError(
                f"The checkpoint can't be read: {error}. Received: {self.checkpoint}",
                f"Start again: add --restart (or delete {self.checkpoint})",
            ) from None
        self.history, self.best = state["history"], state["best"]
        return len(self.history)


def batch_size(recipe: Recipe, clips: int, replicas: int) -> int:
    """The recipe's batch size, smaller for few clips, divisible by the replicas."""
    size = min(recipe.train.batch_size, clips)
    size -= size % replicas
    if size < 1:
        raise KwsError(
            f"Too few training clips for {replicas} replicas. Received: {clips} clips",
            "kws data verify DIR",
        )
    return size


def _optimizer(network: Any, recipe: Recipe, schedule: Schedule, steps: int) -> Any:
    from kws.layers.keras import tf, tf_keras
    from kws.model import network as networks

    class WarmupCosine(tf_keras.optimizers.schedules.LearningRateSchedule):
        """Linear from 0 to the peak, then half a cosine to 0."""

        def __init__(self) -> None:
            self.warmup = max(1.0, recipe.train.warmup * steps)
            self.decay = max(1.0, steps - self.warmup)

        def __call__(self, step: Any) -> Any:
            step = tf.cast(step, tf.float32)
            done = tf.clip_by_value((step - self.warmup) / self.decay, 0.0, 1.0)
            cosine = 0.5 * (1.0 + tf.cos(math.pi * done))
            rising = tf.minimum(1.0, (step + 1.0) / self.warmup)
            return schedule.learning_rate * rising * cosine

    optimizer = tf_keras.optimizers.AdamW(
        WarmupCosine(),
        weight_decay=recipe.train.weight_decay,
        # The legacy optimizers' epsilon lets a parameter that hardly gets a gradient
        # take full steps on noise.
        epsilon=1e-7,
        jit_compile=False,
    )
    kernels = networks.kernels(network)
    optimizer.exclude_from_weight_decay(
        var_list=[w for w in network.trainable_weights if id(w) not in kernels]
    )
    optimizer.build(network.trainable_weights)
    return optimizer


def _train_step(loop: Loop) -> Callable[[Any], Any]:
    """The compiled step: a batch in, its mean loss out."""
    from kws.layers.keras import tf

    network, recipe, strategy = loop.network, loop.recipe, loop.strategy
    settings, spec = recipe.train, recipe.features
    labels = int(network.output_shape[-1])
    mentor = loop.mentor
    taught = mentor is not None or loop.clips.teacher is not None
    weight = settings.distill_weight if taught else 0.0
    penalty = recipe.quantize.delta_penalty if loop.hold is not None else 0.0
    heat = settings.distill_temperature
    # A mentor's silence is our own.
    silence = -1 if loop.silence is None or mentor is not None else loop.silence

    def replica_step(batch: Any) -> Any:
        real = (tf.cast(batch["features"], tf.float32) - spec.zero_point) * spec.scale
        target = tf.one_hot(batch["label"], labels)
        target = target * (1 - settings.label_smoothing)
        target += settings.label_smoothing / labels
        if settings.mixup > 0:
            share = batch["share"][:, None]
            mirror = tf.reverse(target, [0])
            target = share * target + (1 - share) * mirror
            share = share[:, :, None]
            real = share * real + (1 - share) * tf.reverse(real, [0])
        with tf.GradientTape() as tape:
            logits = network(real, training=True)
            loss = tf.nn.softmax_cross_entropy_with_logits(target, logits)
            if weight > 0:
                if mentor is not None:
                    soft = tf.nn.softmax(mentor(real, training=False) / heat)
                else:
                    soft = tf.nn.softmax(batch["teacher"] / heat)
                if settings.mixup > 0 and mentor is None:
                    share = batch["share"][:, None]
                    soft = share * soft + (1 - share) * tf.reverse(soft, [0])
                distance = tf.nn.softmax_cross_entropy_with_logits(soft, logits / heat)
                part = weight * tf.cast(batch["label"] != silence, tf.float32)
                loss = (1 - part) * loss + part * heat**2 * distance
            loss = tf.reduce_sum(loss) / loop.batch
            if penalty > 0:
                share = loop.hold.expected_share()
                loss += penalty * share / strategy.num_replicas_in_sync
        weights = network.trainable_weights
        gradients = tape.gradient(loss, weights)
        loop.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        if settings.ema > 0:
            # Warmed up, so that short trainings are not an average of the start.
            done = tf.cast(loop.optimizer.iterations, tf.float32)
            decay = tf.minimum(settings.ema, (1.0 + done) / (10.0 + done))
            for average, now in zip(loop.averages, weights, strict=True):
                average.assign(average - (average - now) * (1.0 - decay))
        else:
            for average, now in zip(loop.averages, weights, strict=True):
                average.assign(now)
        return loss

    def step(batch: Any) -> Any:
        if strategy.num_replicas_in_sync == 1:
            return replica_step(batch)
        losses = strategy.run(replica_step, args=(batch,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    return tf.function(step)


def write_scalar(tag: str, number: float) -> None:
    """A point of a TensorBoard curve (tf.summary.scalar needs tensorboard itself)."""
    from kws.layers.keras import tf

    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    tf.summary.write(tag, tf.constant(number, tf.float32), metadata=metadata)


def score(logits: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """(accuracy, mean cross entropy)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    loss = log_sum - shifted[np.arange(len(label)), label]
    return float((logits.argmax(axis=1) == label).mean()), float(loss.mean())


def set_weights(network: Any, values: list[np.ndarray]) -> None:
    """Assign all of network.weights."""
    for weight, value in zip(network.weights, values, strict=True):
        weight.assign(value)


def write_results(folder: Path, phase: str, history: list[dict[str, Any]]) -> None:
    """Put one phase's rows into results.csv, keeping those of phases before it."""
    path = folder / "results.csv"
    earlier = PHASES[: PHASES.index(phase)]
    lines = [",".join(COLUMNS)]
    if path.is_file():
        old = path.read_text(encoding="utf-8").splitlines()[1:]
        lines += [line for line in old if line.split(",")[0] in earlier]
    for row in history:
        cells = [row[key] for key in COLUMNS]
        lines.append(
            ",".join(f"{c:.6g}" if isinstance(c, float) else str(c) for c in cells)
        )
    bundles.write_atomic(path, ("\n".join(lines) + "\n").encode())


@dataclass(frozen=True)
class Material:
    """What a run trains on.

    Args:
        labels: Label names in logit order.
        clips: The training pool.
        validation: Validation features int8 [N, frames, mel_bins] and labels [N].
        calibration: Unaugmented training features int8 [N, frames, mel_bins].
    """

    labels: tuple[str, ...]
    clips: Pool
    validation: tuple[np.ndarray, np.ndarray]
    calibration: np.ndarray


def gather(
    recipe: Recipe,
    audio: Path | None,
    out: Path,
    teacher: Path | None = None,
    teacher_labels: tuple[str, ...] | None = None,
    limit: int | None = None,
    pool_folder: Path | None = None,
    also: tuple[Path, ...] = (),
) -> Material:
    """Read the clips and make (or find) the pool; by default in `out/checkpoints`."""
    labels = data.labels(recipe.task)
    folder = out / "checkpoints"
    print("Reading clips", file=sys.stderr, flush=True)
    training = data.load("train", recipe.task, audio, recipe.train.seed, limit, also)
    validation = data.load("val", recipe.task, audio, recipe.train.seed, limit, also)
    _check_labels(training)
    print(
        f"{len(training)} training clips, {len(validation)} for validation, "
        f"{len(labels)} labels",
        data.overview(training, validation, recipe.task, audio, also),
        sep="\n",
        file=sys.stderr,
    )
    mentor = None
    if teacher is not None:
        from kws.teacher import Teacher

        mentor = Teacher(teacher, recipe, labels, teacher_labels)
    _claim(recipe, out)
    training.save(folder / "train.json")
    validation.save(folder / "val.json")
    clips = pool.build(
        training, data.noise_bank(audio), recipe, pool_folder or folder / "pool", mentor
    )
    rng = np.random.default_rng(recipe.train.seed)
    count = min(len(training), recipe.quantize.calibration_clips)
    chosen = rng.permutation(len(training))[:count]
    return Material(
        labels,
        clips,
        (features.extract(validation.pcm, recipe.features), validation.label),
        features.extract(training.pcm[chosen], recipe.features),
    )


def _check_labels(clips: ClipSet) -> None:
    counts = np.bincount(clips.label, minlength=len(clips.labels))
    empty = [name for name, n in zip(clips.labels, counts, strict=True) if n == 0]
    if empty and empty != ["_unknown_"]:
        raise KwsError(
            f"No training clips of {', '.join(empty)}. Expected some of every label.",
            "kws data verify DIR   (or leave the word out: --words ...)",
        )


def start(recipe: Recipe, out: Path, restart: bool) -> None:
    """Make `out` ready: new, or holding a run of the same recipe to go on with.

    Raises:
        KwsError: it holds something else.
    """
    state = out / "checkpoints" / "run.json"
    if restart:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        shutil.rmtree(out / "tensorboard", ignore_errors=True)
        (out / "results.csv").unlink(missing_ok=True)
    if state.is_file():
        if bundles.read_json(state).get("recipe") == _fingerprint(recipe):
            return
        raise KwsError(
            f"This folder holds a run of another recipe. Expected the same one to go "
            f"on with it. Received: {out}",
            f"Another folder (--out {out}-2), or --restart to train it anew.",
        )
    if out.exists() and not out.is_dir():
        raise KwsError(f"--out must be a folder. Received: {out}", f"--out {out}-run")


def _claim(recipe: Recipe, out: Path) -> None:
    """Mark `out` as this recipe's, once its clips could be read."""
    text = json.dumps({"recipe": _fingerprint(recipe)})
    bundles.write_atomic(out / "checkpoints" / "run.json", text.encode())


def _fingerprint(recipe: Recipe) -> str:
    text = json.dumps(recipes.to_dict(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def train(
    recipe: Recipe,
    out: Path,
    audio: Path | None = None,
    *,
    teacher: Path | None = None,
    teacher_labels: tuple[str, ...] | None = None,
    pool_folder: Path | None = None,
    also: tuple[Path, ...] = (),
    distribute: str = "none",
    restart: bool = False,
    convert: bool = True,
    limit: int | None = None,
) -> Bundle:
    """Float training, calibration, QAT and conversion, each gone on with if stopped.

    Args:
        recipe: The recipe.
        out: Folder of the run.
        audio: Folder of clips; None looks in the usual places.
        teacher: A .tflite to distil from.
        teacher_labels: Names of its logits.
        pool_folder: Where pools are kept for several runs; None: inside `out`.
        also: More folders of clips (kws.data.load).
        distribute: none, mirrored or multiworker.
        restart: Forget what `out` holds.
        convert: Write model.tflite at the end.
        limit: First N clips of each split only (for trying things out).

    Returns:
        The bundle at `out`.

    Raises:
        KwsError: bad input; CheckFailed: the conversion check did not hold.
    """
    from kws.model import hold as holds
    from kws.model import network as networks

    networks.check(recipe)
    holds.check(recipe)
    start(recipe, out, restart)
    begin = time.monotonic()
    strategy = strategy_of(distribute)  # a cluster has to come before all else
    prepare(recipe.train.seed)
    pools = own_pool(pool_folder, out, strategy)
    material = gather(recipe, audio, out, teacher, teacher_labels, limit, pools, also)
    labels = material.labels
    schedule = Schedule(FLOAT, recipe.train.epochs, recipe.train.learning_rate)
    with strategy.scope():
        network = networks.build(recipe, len(labels))
    loop = Loop(
        network,
        recipe,
        schedule,
        material.clips,
        material.validation,
        out,
        strategy,
        _silence(labels),
    )
    result = loop.run()
    set_weights(network, result.weights)
    return finish(
        recipe, out, network, material, strategy, begin, convert, float_result=result
    )


def tune(
    source: Bundle,
    recipe: Recipe,
    out: Path,
    audio: Path | None = None,
    *,
    teacher: Path | None = None,
    teacher_labels: tuple[str, ...] | None = None,
    self_distill: bool = False,
    pool_folder: Path | None = None,
    also: tuple[Path, ...] = (),
    distribute: str = "none",
    restart: bool = False,
    convert: bool = True,
    limit: int | None = None,
) -> Bundle:
    """Calibrate and tune the weights of another bundle, into `out`.

    Args:
        source: Where the weights come from.
        recipe: The source's recipe, with other training settings where wanted. With
            another head_dim, mlp_rank, share or groups the weights are factorised
            first (kws/model/lowrank.py).
        out: Folder of the new run. The other arguments are `train`'s.
        self_distill: Distil from `source` itself, as a float network without delta.

    Raises:
        KwsError: bad input; CheckFailed: the conversion check did not hold.
    """
    from kws.model import hold as holds
    from kws.model import lowrank
    from kws.model import network as networks

    networks.check(recipe)
    holds.check(recipe)
    lowrank.check_source(source.recipe.model, recipe.model)
    if out.resolve() == source.path.resolve():
        raise KwsError(
            f"--out has to be another folder than the run. Received: {out}",
            f"kws tune {source.path} --out {out}-tuned",
        )
    start(recipe, out, restart)
    begin = time.monotonic()
    strategy = strategy_of(distribute)
    prepare(recipe.train.seed)
    network = networks.restore(source, "folded")
    if recipe.model != source.recipe.model:
        dense, network = network, networks.build(recipe, len(source.labels), "folded")
        lowrank.factorise(dense, network, recipe.model)
    pools = own_pool(pool_folder, out, strategy)
    material = gather(recipe, audio, out, teacher, teacher_labels, limit, pools, also)
    if material.labels != source.labels:
        raise KwsError(
            f"The run's labels are not its task's. Expected "
            f"{', '.join(material.labels)}. Received: {', '.join(source.labels)}",
            f"Set [task] in a recipe: kws train --recipe my.toml --out {out}",
        )
    mentor = None
    if self_distill:
        with strategy.scope():
            mentor = networks.restore(source, "folded")
    # Thresholds count in steps of the ranges that they were chosen for.
    keep = (
        bool(recipe.quantize.delta_thresholds)
        and recipe.model == source.recipe.model
        and networks.calibrated(network)
    )
    return finish(
        recipe,
        out,
        network,
        material,
        strategy,
        begin,
        convert,
        fold=False,
        calibrate=not keep,
        mentor=mentor,
    )


def finish(
    recipe: Recipe,
    out: Path,
    network: Any,
    material: Material,
    strategy: Any,
    begin: float,
    convert: bool,
    float_result: Result | None = None,
    fold: bool = True,
    calibrate: bool = True,
    mentor: Any = None,
) -> Bundle:
    """From a float network to the bundle: fold, calibrate, tune, convert.

    Args:
        network: Mode `float` where `fold`, else mode `folded`.
        begin: time.monotonic() at the start of the run.
        calibrate: Set the activation ranges anew; otherwise they are `network`'s.
        mentor: See `Loop`.
    """
    from kws import quantize
    from kws.model import hold as holds
    from kws.model import network as networks

    labels = material.labels
    count = len(labels)
    folded = networks.fold(network, recipe, count) if fold else network
    ranges = 0
    if calibrate:
        ranges = quantize.calibrate(folded, recipe, material.calibration)
    with strategy.scope():
        tuned = networks.build(recipe, count, "qat")
    set_weights(tuned, [weight.numpy() for weight in folded.weights])
    with holds.holding(tuned, recipe, count) as hold:
        quantized = score(
            networks.predictor(tuned, recipe)(material.validation[0]),
            material.validation[1],
        )
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
        best = quantized[0]
        if recipe.quantize.epochs > 0:
            schedule = Schedule(
                QAT, recipe.quantize.epochs, recipe.quantize.learning_rate
            )
            loop = Loop(
                tuned,
                recipe,
                schedule,
                material.clips,
                material.validation,
                out,
                strategy,
                _silence(labels),
                hold,
                mentor,
            )
            result = loop.run()
            set_weights(tuned, result.weights)
            best = result.best["val_accuracy"]
            metrics["val_accuracy_qat"] = best
            metrics["epoch_qat"] = result.best["epoch"]
    thresholds = {} if hold is None else hold.thresholds
    metrics["seconds"] = time.monotonic() - begin
    bundle = Bundle(out, recipe, labels, thresholds, {"train": metrics})
    if not is_chief(strategy):
        return bundle
    networks.save_weights(tuned, bundle)
    quantize.save_calibration(out, material.calibration)
    bundle.model_path.unlink(missing_ok=True)  # of weights that are no more
    bundles.save(bundle)
    if convert:
        from kws import convert as conversion

        bundle = conversion.convert(bundle, tuned, material.calibration)
    return bundle


def with_task(recipe: Recipe, task: str | None, words: tuple[str, ...]) -> Recipe:
    """The recipe with the task of the command line."""
    if words:
        task = "custom" if task is None else task
        if task != "custom":
            raise KwsError(
                f"--words makes a task of its own. Received: --task {task} --words "
                f"{','.join(words)}",
                f"kws train --words {','.join(words)}",
            )
        changed = dataclasses.replace(recipe.task, name="custom", words=words)
    elif task is not None:
        changed = dataclasses.replace(recipe.task, name=task)
    else:
        return recipe
    return dataclasses.replace(recipe, task=changed)


def _silence(labels: tuple[str, ...]) -> int | None:
    return labels.index(recipes.SILENCE) if recipes.SILENCE in labels else None
