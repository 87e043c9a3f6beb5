"""The loop of one phase of training: batches in, checkpoints and results out.

What a run computes is a function of the recipe, the clips and the seed. Every epoch
ends with a checkpoint of everything that the next one needs, and every random choice
is drawn from (seed, phase, epoch): so a run that was killed goes on to the same
weights as one that was not.
"""

from __future__ import annotations

import io
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle as bundles
from kws import pool
from kws.errors import KwsError
from kws.pool import Pool
from kws.progress import Progress, duration
from kws.recipe import Recipe
from kws.train import distribute

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
        no_words: Indices of the labels that are no words: silence and unknown.
        keep: Called with each epoch's number and averaged weights, to keep them; or
            None.
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
        no_words: tuple[int, ...] = (),
        keep: Callable[[int, list[np.ndarray]], None] | None = None,
    ) -> None:
        from kws.layers.keras import tf
        from kws.train import optimizer

        self.hold, self.mentor, self.no_words = hold, mentor, no_words
        self.keep = keep
        self.network, self.recipe, self.schedule = network, recipe, schedule
        self.clips, self.validation = clips, validation
        self.folder, self.strategy, self.silence = folder, strategy, silence
        self.name = PHASES[schedule.phase]
        self.checkpoint = folder / "checkpoints" / f"{self.name}.npz"
        self.batch = batch_size(recipe, len(clips), strategy.num_replicas_in_sync)
        replicas = strategy.num_replicas_in_sync
        pairs = pool.ambient_pairs(clips, recipe, self.batch // replicas)
        self.steps = len(clips) // (self.batch - 2 * pairs * replicas)
        self.warm = False  # all that is compiled is
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.best_weights: list[np.ndarray] = []
        with strategy.scope():
            self.optimizer = optimizer.make(
                network, recipe, schedule.learning_rate, self.steps * schedule.epochs
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
        self._judge = judge(network, recipe)

    # What a checkpoint holds, in a fixed order.
    def _variables(self) -> list[Any]:
        return [*self.network.weights, *self.optimizer.variables, *self.averages]

    def run(self) -> Result:
        """Train to the end, from the last checkpoint if there is one."""
        from kws.layers.keras import tf

        first = self._restore()
        chief = distribute.is_chief(self.strategy)
        writer: Any = None
        if chief and first < self.schedule.epochs:
            curves = self.folder / "tensorboard" / self.name
            try:
                writer = tf.summary.create_file_writer(str(curves))
            except tf.errors.OpError as error:
                raise KwsError(
                    f"The curves can't be written: {error.message}. Received: {curves}",
                    "Make room on the disk, or look at what is in the way; then rerun.",
                ) from None
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
            if chief and self.keep is not None:
                self.keep(epoch + 1, weights)
            self._save(chief)
            if chief:
                write_results(self.folder, self.name, self.history)
        if writer is not None:
            writer.close()
        return Result(self.best_weights, self.best, self.history)

    def _epoch(self, epoch: int, bar: Progress) -> dict[str, Any]:
        from kws.layers.keras import tf

        begin = measured = end = time.monotonic()
        done, steps = epoch * self.steps, 0
        losses = []
        for step, batch in enumerate(self._dataset(epoch)):
            losses.append(self._train_step(batch))
            if step % 8 == 7:  # not every step: reading the loss waits for it
                bar.at(done + step + 1, f"loss {float(losses[-1]):.3f}")
            end = time.monotonic()
            steps += 1
            if not self.warm and step == 0 and self.steps > 1:
                # The first step compiles the others, and is no measure of them.
                bar.restart(done + 1)
                measured, steps = end, 0
        train_loss = float(tf.reduce_mean(losses))
        if not math.isfinite(train_loss):
            raise KwsError(
                f"Training diverged: the loss is {train_loss} in {self.name} epoch "
                f"{epoch + 1}. Expected a finite loss.",
                "Lower [train] learning_rate (or [quantize] learning_rate) and rerun.",
                exit_code=1,
            )
        accuracy, val_loss = self._validate()
        if self.warm:
            bar.at(done + self.steps)
        else:  # nor is the first epoch's end, with the validation
            bar.restart(done + self.steps)
            self.warm = True
        return {
            "phase": self.name,
            "epoch": epoch + 1,
            "learning_rate": float(self.optimizer.learning_rate.numpy()),
            "train_loss": train_loss,
            "val_loss": val_loss,
            "val_accuracy": accuracy,
            "samples_per_second": steps * self.batch / max(end - measured, 1e-9),
            "seconds": time.monotonic() - begin,
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
                    self.clips,
                    self.recipe,
                    self.batch,
                    self.schedule.phase,
                    epoch,
                    replicas,
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
        result = self._judge(*self.validation)
        set_weights(self.network, kept)
        return result

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
        """Load the last checkpoint; the number of epochs that it has behind it.

        Of several workers all go on from the chief's, whatever lies in their folders:
        one that was killed may have none, or one of another epoch.
        """
        data = self.checkpoint.read_bytes() if self.checkpoint.is_file() else b""
        data = distribute.from_chief(self.strategy, data)
        if not data:
            return 0
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
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

    # Silence and unknown, of which ambient windows are either.
    none = tf.constant(
        [float(index in loop.no_words) for index in range(labels)], tf.float32
    )

    # What the logits of clips are to leave out.
    frequent = np.bincount(loop.clips.label, minlength=labels) / len(loop.clips)
    adjustment = tf.constant(
        settings.logit_adjustment * np.log(np.maximum(frequent, 1 / len(loop.clips))),
        tf.float32,
    )

    def none_but(allowed: Any, logits: Any) -> Any:
        """Cross entropy of "one of these labels": allowed (B, labels), 0 or 1."""
        those = tf.reduce_logsumexp(logits - 1e9 * (1.0 - allowed), axis=1)
        return tf.reduce_logsumexp(logits, axis=1) - those

    if recipe.model.causal:
        from kws.model import stream

        paired = stream.trained(network, recipe)

        def forward(real: Any) -> Any:
            return paired(real, tf.cast(loop.optimizer.iterations, tf.int32))
    else:

        def forward(real: Any) -> Any:
            return network(real, training=True), None

    def replica_step(batch: Any) -> Any:
        real = (tf.cast(batch["features"], tf.float32) - spec.zero_point) * spec.scale
        known = batch["label"] != pool.NO_WORD
        said = tf.one_hot(batch["label"], labels)
        target = said * (1 - settings.label_smoothing)
        target += settings.label_smoothing / labels
        if settings.mixup > 0:
            share = batch["share"][:, None]
            mirror = tf.reverse(target, [0])
            target = share * target + (1 - share) * mirror
            said += tf.reverse(said, [0])  # a mirror's word may be heard as well
            share = share[:, :, None]
            real = share * real + (1 - share) * tf.reverse(real, [0])
        with tf.GradientTape() as tape:
            logits, between = forward(real)
            adjusted = logits + adjustment
            loss = tf.nn.softmax_cross_entropy_with_logits(target, adjusted)
            if weight > 0:
                if mentor is not None:
                    soft = tf.nn.softmax(mentor(real, training=False) / heat)
                else:
                    soft = tf.nn.softmax(batch["teacher"] / heat)
                if settings.mixup > 0 and mentor is None:
                    share = batch["share"][:, None]
                    soft = share * soft + (1 - share) * tf.reverse(soft, [0])
                distance = tf.nn.softmax_cross_entropy_with_logits(
                    soft, adjusted / heat
                )
                part = weight * tf.cast(batch["label"] != silence, tf.float32)
                loss = (1 - part) * loss + part * heat**2 * distance
            loss = tf.where(known, loss, none_but(none, logits))
            loss = tf.reduce_sum(loss) / loop.batch
            if between is not None:
                half = tf.shape(between)[0]
                either = said[:half] + said[tf.shape(said)[0] - half :] + none
                other = none_but(tf.minimum(either, 1.0), between)
                loss += settings.between * tf.reduce_sum(other) / loop.batch
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

    return tf.function(step, autograph=False)


def write_scalar(tag: str, number: float) -> None:
    """A point of a TensorBoard curve (tf.summary.scalar needs tensorboard itself)."""
    from kws.layers.keras import tf

    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    tf.summary.write(tag, tf.constant(number, tf.float32), metadata=metadata)


def judge(
    network: Any, recipe: Recipe
) -> Callable[[np.ndarray, np.ndarray], tuple[float, float]]:
    """A function of features and labels: (accuracy, mean cross entropy).

    A causal network is judged on each clip twice: from a cold start, and after another
    clip (kws/model/stream.py).
    """
    from kws.model import network as networks
    from kws.model import stream

    make = stream.predictor if recipe.model.causal else networks.predictor
    predict = make(network, recipe)

    def run(clips: np.ndarray, label: np.ndarray) -> tuple[float, float]:
        logits = predict(clips)
        return score(logits, np.resize(label, len(logits)))

    return run


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
