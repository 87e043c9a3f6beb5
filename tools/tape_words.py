"""How much do networks, a teacher, and all of them together miss on a tape's words?

Every word of a tape made by `kws data tape` is cut out, a second around its middle,
with the noise that it lies in, and heard as a clip: without a detector's smoothing and
without the sound between words. So networks can be held against a teacher that only
hears clips, and against the mean of them all (of the logarithms of their posteriors),
which tells what is left to learn for a network of that size on that data.

    python tools/tape_words.py val/words.wav --run kwt-small --run kwt-stream-small \\
        --teacher kwt1_float.tflite --false-alarms 12,24

A false alarm is a word that is taken for another one, keyword or not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from kws import bundle as bundles  # noqa: E402
from kws import data, features  # noqa: E402
from kws.data import tape  # noqa: E402
from kws.data.audio import SAMPLE_RATE  # noqa: E402
from kws.engines import host  # noqa: E402
from kws.graph import reader  # noqa: E402
from kws.progress import Progress  # noqa: E402
from kws.recipe import SILENCE, UNKNOWN, Task  # noqa: E402
from kws.teacher import Teacher  # noqa: E402

LEAST = 1e-6  # a posterior: its logarithm is taken
NOISY_DB = 10.0


def words_of(path: Path) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Clips int16 [N, 16000], what each is (keyword or unknown), dB over the bed."""
    recording = tape.open_tape(path)
    keywords = {window.start_s: window for window in recording.windows}
    clips, said, over = [], [], []
    for window in recording.said:
        start = round(((window.start_s + window.end_s) / 2 - 0.5) * SAMPLE_RATE)
        clip = recording.pcm[max(0, start) : max(0, start) + SAMPLE_RATE]
        if len(clip) < SAMPLE_RATE:
            continue
        keyword = keywords.get(window.start_s)
        clips.append(clip)
        said.append(keyword.word if keyword else UNKNOWN)
        snr = keyword.snr_db if keyword else None
        over.append(np.inf if snr is None else snr)
    return np.array(clips), said, np.array(over)


def posteriors(logits: np.ndarray) -> np.ndarray:
    """softmax over the last axis."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def heard_by_run(run: str, clips: np.ndarray, labels: tuple[str, ...]) -> np.ndarray:
    """Posteriors of a run's int8 network, from a reset: float [N, labels]."""
    bundle = bundles.load(run)
    steps = host.logits(bundle, clips)
    scale = reader.read(bundle.model_path.read_bytes()).output.scale
    columns = [bundle.labels.index(label) for label in labels]
    return posteriors(np.asarray(steps, float) * scale)[:, columns]


def heard_by_teacher(
    path: Path, run: str, clips: np.ndarray, labels: tuple[str, ...]
) -> np.ndarray:
    """Posteriors of a .tflite, over the labels alone."""
    recipe = bundles.load(run).recipe
    teacher = Teacher(path, recipe, labels)
    frames = features.of_clips(clips, recipe.features)
    bar = Progress("teacher", len(clips))
    logits = teacher.logits(clips, frames, bar)
    bar.end()
    return posteriors(logits)


def row(
    name: str,
    shares: np.ndarray,
    labels: tuple[str, ...],
    said: list[str],
    over: np.ndarray,
    allowed: int,
) -> str:
    """What is missed at a threshold that lets so many false alarms through."""
    words = [i for i, label in enumerate(labels) if label not in (SILENCE, UNKNOWN)]
    best = shares[:, words].argmax(axis=1)
    score = shares[:, words].max(axis=1)
    right = np.array([labels[words[i]] for i in best]) == np.array(said)
    wrong = np.sort(score[~right])[::-1]
    threshold = wrong[allowed] if allowed < len(wrong) else 0.0
    keyword = np.array([word != UNKNOWN for word in said])
    hit = keyword & right & (score > threshold)
    cells = []
    for group in (keyword, keyword & (over < NOISY_DB), keyword & (over >= NOISY_DB)):
        cells.append(f"{100 * (1 - hit[group].mean()):7.1f} %")
    return f"{name:<40}{allowed:>6}" + "".join(f"{cell:>12}" for cell in cells)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tape", type=Path)
    parser.add_argument("--run", action="append", required=True)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--task", default="gsc10")
    parser.add_argument("--false-alarms", default="12,24", help="on the whole tape")
    options = parser.parse_args()
    labels = data.labels(Task(options.task))
    clips, said, over = words_of(options.tape)
    print(
        f"{len(clips)} words, {sum(word != UNKNOWN for word in said)} of them keywords"
    )
    heard = {run: heard_by_run(run, clips, labels) for run in options.run}
    if options.teacher is not None:
        heard[options.teacher.name] = heard_by_teacher(
            options.teacher, options.run[0], clips, labels
        )
    if len(heard) > 1:
        logs = [np.log(np.maximum(shares, LEAST)) for shares in heard.values()]
        heard["all of them together"] = posteriors(np.mean(logs, axis=0))
    print(f"{'':<40}{'wrong':>6}{'missed':>12}{'under 10 dB':>12}{'over':>12}")
    for name, shares in heard.items():
        for allowed in map(int, options.false_alarms.split(",")):
            print(row(name, shares, labels, said, over, allowed))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
