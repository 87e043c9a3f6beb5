r"""Does a network hear the person whose recordings it was trained with?

Of each person some recordings a word are for training, the others are held out:

    python tools/own_voice.py divide PEOPLE --words zero,one --own 20 --out people
    kws data import people/anna/own --out corpus/anna/own
    kws data import people/anna/held --out corpus/anna/held
    kws data synth --words zero,one --out spoken
    kws train --from kwt-stream-tiny --words zero,one --data spoken --out runs/before
    kws train --from kwt-stream-tiny --words zero,one --data corpus/anna/own:8 \
        --also spoken --epochs 12 --qat-epochs 2 --variants 4 --out runs/anna
    python tools/own_voice.py hear corpus/anna/held runs/before runs/anna

PEOPLE has WORD/NAME_nohash_N.wav. Of words that --words doesn't name, --near
recordings are for training, as `kws data record` asks for them: unknown words.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from kws import bundle as bundles  # noqa: E402
from kws.bundle import Bundle  # noqa: E402
from kws.data import ClipSet, audio, names  # noqa: E402
from kws.evaluate import Evaluation, evaluate_clips  # noqa: E402
from kws.intervals import wilson_interval  # noqa: E402
from kws.recipe import UNKNOWN  # noqa: E402


def divide(people: Path, words: list[str], own: int, near: int, out: Path) -> None:
    """Copy recordings into OUT/NAME/own and OUT/NAME/held, by their numbers."""
    keys = {names.key(word) for word in words}
    for folder in sorted(path for path in people.iterdir() if path.is_dir()):
        theirs: dict[str, list[Path]] = defaultdict(list)
        for path in folder.glob("*_nohash_*.wav"):
            theirs[path.name.split("_nohash_")[0]].append(path)
        for name, paths in theirs.items():
            paths.sort(key=lambda path: (len(path.name), path.name))
            first = own if names.key(folder.name) in keys else near
            for part, files in (("own", paths[:first]), ("held", paths[own:])):
                place = out / name / part / folder.name
                place.mkdir(parents=True, exist_ok=True)
                for path in files:
                    shutil.copy(path, place)


def clips(folder: Path, bundle: Bundle) -> ClipSet:
    """All clips of a corpus, whatever split they would be in."""
    labels = {names.key(label): i for i, label in enumerate(bundle.labels)}
    paths = sorted(folder.glob("[!_]*/*.wav"))
    size = bundle.recipe.task.clip_samples
    pcm = np.zeros((len(paths), size), np.int16)
    for row, path in zip(pcm, paths, strict=True):
        sound = audio.samples(path)[:size]
        row[: len(sound)] = sound
    unknown = bundle.labels.index(UNKNOWN)
    truth = [labels.get(names.key(path.parent.name), unknown) for path in paths]
    said = [str(path.relative_to(folder)) for path in paths]
    return ClipSet(pcm, np.array(truth, np.int32), said, bundle.labels, "test", {})


def hear(folder: Path, run: str) -> dict[str, object]:
    """What a run makes of a person's held recordings."""
    bundle = bundles.load(run)
    found: Evaluation = evaluate_clips(bundle, clips(folder, bundle))
    unknown = bundle.labels.index(UNKNOWN)
    first = unknown + 1
    said = found.confusion[first:]
    right, all_said = int(np.trace(said[:, first:])), int(said.sum())
    others = found.confusion[unknown]
    taken = int(others[first:].sum())
    return {
        "run": run,
        "words": [right, all_said],
        "words_ci95": wilson_interval(right, all_said),
        "others_taken": [taken, int(others.sum())],
        "others_taken_ci95": wilson_interval(taken, int(others.sum())),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("divide")
    first.add_argument("people", type=Path)
    first.add_argument("--words", required=True, help="with commas between")
    first.add_argument("--own", type=int, default=20)
    first.add_argument("--near", type=int, default=5)
    first.add_argument("--out", type=Path, required=True)
    second = verbs.add_parser("hear")
    second.add_argument("folder", type=Path)
    second.add_argument("runs", nargs="+")
    options = parser.parse_args()
    if options.verb == "divide":
        words = options.words.split(",")
        divide(options.people, words, options.own, options.near, options.out)
        return 0
    for run in options.runs:
        print(json.dumps(hear(options.folder, run)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
