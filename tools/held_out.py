"""What do words reach that have few recordings or none?

Some words that do have recordings are treated as if they had not: a network is trained
without them, or with N of each (30 are among the 300), beside what was spoken by `kws
data synth`, and judged on the validation recordings of people.

    kws data synth --words up,go,stop,left --clips-per-word 1600 --out spoken
    python tools/held_out.py --words up,go,stop,left --recordings 0,30,300 \\
        --also spoken --teacher kwt1_float.tflite --data data/speech_commands

One pool is made for all trainings; --without-spoken leaves the words' spoken clips out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from kws import data, features, pool, train  # noqa: E402
from kws import recipe as recipes  # noqa: E402
from kws.intervals import wilson_interval  # noqa: E402
from kws.pool import Pool  # noqa: E402


def kept(
    label: np.ndarray,
    real: np.ndarray,
    held: list[int],
    recordings: int,
    spoken: bool,
    seed: int,
) -> np.ndarray:
    """Rows of the clips to train on.

    Args:
        label: int [N].
        real: bool [N]: a recording, not spoken by a synthesizer.
        held: Labels of the words that are held out.
        recordings: How many of each held word's recordings stay.
        spoken: Keep the held words' spoken clips.
        seed: Of the choice.
    """
    out = ~np.isin(label, held) | (~real & spoken)
    rng = np.random.default_rng(seed)
    for word in held:
        of_it = np.flatnonzero(real & (label == word))
        out[rng.permutation(of_it)[:recordings]] = True
    return np.flatnonzero(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--words", required=True)
    parser.add_argument("--recordings", default="0", help="Numbers, with commas.")
    parser.add_argument("--without-spoken", action="store_true")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--also", type=Path, action="append", default=[])
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pool", type=Path, default=Path("build/held_out_pool"))
    options = parser.parse_args()

    from kws.model import network as networks
    from kws.teacher import Teacher, Teachers

    spec = recipes.load("kwt-tiny")
    spec = dataclasses.replace(
        spec,
        augment=dataclasses.replace(
            recipes.load("kwt-small").augment, variants=4, splice_percent=0.0
        ),
        train=dataclasses.replace(spec.train, epochs=options.epochs),
    )
    names = data.labels(spec.task)
    if odd := set(options.words.split(",")) - set(names):
        parser.error(f"--words: no words of {spec.task.name}: {', '.join(odd)}")
    held = [names.index(word) for word in options.words.split(",")]
    recordings = data.open_corpus(options.data).recordings("train")
    clips = data.load(
        "train", spec.task, options.data, spec.train.seed, also=tuple(options.also)
    )
    real = np.isin(clips.names, [recording.name for recording in recordings])
    people = data.load("val", spec.task, options.data, spec.train.seed)
    judged = features.extract(people.pcm, spec.features), people.label
    teacher = None
    if options.teacher:
        teacher = Teachers([Teacher(options.teacher, spec, names)])
    whole = pool.build(
        clips, data.noise_bank(options.data), spec, options.pool, teacher
    )
    of_held = np.isin(people.label, held)
    for number in options.recordings.split(","):
        rows = kept(
            clips.label,
            real,
            held,
            int(number),
            not options.without_spoken,
            spec.train.seed,
        )
        part = Pool(
            whole.features[:, rows],
            whole.label[rows],
            None if whole.teacher is None else whole.teacher[:, rows],
        )
        train.prepare(spec.train.seed)
        network = networks.build(spec, len(names))
        schedule = train.Schedule(
            train.FLOAT, spec.train.epochs, spec.train.learning_rate
        )
        with tempfile.TemporaryDirectory() as folder:
            loop = train.Loop(
                network,
                spec,
                schedule,
                part,
                judged,
                Path(folder),
                train.strategy_of("none"),
                names.index(recipes.SILENCE),
            )
            train.set_weights(network, loop.run().weights)
        heard = networks.predictor(network, spec)(judged[0]).argmax(axis=1)
        right = heard == people.label
        row = {"recordings": int(number), "spoken": not options.without_spoken}
        row |= {"clips": len(rows)}
        for name, mine in (("held", of_held), ("others", ~of_held)):
            low, high = wilson_interval(int(right[mine].sum()), int(mine.sum()))
            row |= {name: float(right[mine].mean()), f"{name}_n": int(mine.sum())}
            row |= {f"{name}_ci95": [low, high]}
        row["words"] = {names[k]: float(right[people.label == k].mean()) for k in held}
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
