"""Why do the official test files make more mistakes than validation?

Google Speech Commands v0.01 had 64,727 recordings, v0.02 has 105,829. Of networks whose
training and validation are mostly the older ones this asks how they hear the others:

    python tools/newer_recordings.py --data speech_commands --lists v0.01 \\
        --run kwt-small --run kwt-stream-small --teacher kwt1_float.tflite --tapes 14400

V0.01 is the folder with the testing_list.txt and validation_list.txt of
speech_commands_v0.01.tar.gz: clips that no list of it names are v0.02's alone. With
--tapes, words of validation, older and newer words of the test files are each laid on
the background noise of validation and on that of the test files, so many seconds of
each, and heard by the runs as they are calibrated; false alarms are told by whether
training has the word that was said.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from tape_words import heard_by_run, heard_by_teacher  # noqa: E402

from kws import bundle as bundles  # noqa: E402
from kws import data, tapes  # noqa: E402
from kws.data import tape  # noqa: E402
from kws.data.speakers import by_speaker  # noqa: E402
from kws.data.speech_commands import ClipSet, open_corpus  # noqa: E402
from kws.data.splits import speaker_of  # noqa: E402
from kws.intervals import wilson_interval  # noqa: E402
from kws.recipe import SILENCE, UNKNOWN, Task  # noqa: E402

LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
HARDLY = 50  # recordings of a word: the test files' own words have 777 and more here
SEED = 5


def name_in_lists(name: str) -> str:
    """`word/speaker_nohash_n.wav`; the test files keep a word in its clip's name."""
    name = name.removeprefix(UNKNOWN + "/").replace(".wav.wav", ".wav")
    if "/" in name:
        return "/".join(name.split("/")[-2:])
    return name.replace("_", "/", 1)


def groups_of(clips: dict[str, ClipSet], lists: Path) -> dict[str, tuple]:
    """Name of each group -> (its split's clips, their indices)."""
    found = {}
    for split, of_split in clips.items():
        listed = set((lists / LISTS[split]).read_text().split())
        if not listed:
            raise SystemExit(f"{lists / LISTS[split]} names no clip")
        old = np.array([name_in_lists(name) in listed for name in of_split.names])
        spoken = np.array([of_split.labels[i] != SILENCE for i in of_split.label])
        for kind, chosen in (("v0.01", old), ("v0.02 alone", ~old)):
            found[f"{split}, {kind}"] = (of_split, np.flatnonzero(spoken & chosen))
    return found


def of_clips(groups: dict[str, tuple], runs: list[str], teacher: Path | None) -> None:
    """Print how many of each group's words a run and the teacher hear wrong."""
    print("wrong, of the words alone\n")
    for name, (clips, rows) in groups.items():
        words = np.array(
            [clips.labels[i] not in (SILENCE, UNKNOWN) for i in clips.label]
        )
        rows = rows[words[rows]]
        names = [clips.names[i] for i in rows]
        people = {speaker_of(name) for name in names}
        print(f"{name}: {len(rows)} clips, {len(people)} speakers")
        if not len(rows):
            continue
        pcm, truth = clips.pcm[rows], clips.label[rows]
        heard = {run: heard_by_run(run, pcm, clips.labels) for run in runs}
        if teacher is not None:
            heard[teacher.name] = heard_by_teacher(teacher, runs[0], pcm, clips.labels)
        for which, shares in heard.items():
            right = shares.argmax(axis=1) == truth
            told = by_speaker(names, right)
            vary = ""
            if told is not None and told.ci95 is not None:
                low, high = (100 * (1 - share) for share in told.ci95[::-1])
                vary = f"   {low:.1f} to {high:.1f} as speakers vary"
            print(f"    {which:<24}{100 * (1 - right.mean()):6.2f} %{vary}")


def of_tapes(
    groups: dict[str, tuple], runs: list[str], source: Path, seconds: float
) -> None:
    """Print what is missed and mistaken of each group's words on either's noise."""
    trained = Counter(
        recording.word for recording in open_corpus(source).recordings("train")
    )
    for name, (clips, rows) in groups.items():
        words = np.unique(clips.label[rows])
        if len(rows) < 500 or len(words) < len(clips.labels) - 1:
            print(f"{name}: too few clips for a tape")
            continue
        for bed in LISTS:
            recording = tape.build(
                clips.pcm[rows],
                clips.label[rows],
                clips.labels,
                data.noise_bank(source, bed),
                seconds,
                seed=SEED,
                clip_names=[clips.names[i] for i in rows],
            )
            for run in runs:
                result = tapes.evaluate(
                    bundles.load(run), [(name, recording)], findings=True
                )
                alarms = [f for f in result.findings if f.what == tapes.FALSE_ALARM]
                said = [set(f.said.split()) - {f.word} for f in alarms]
                rare = sum(
                    bool(s) and all(trained[word] < HARDLY for word in s) for s in said
                )
                score = result.score
                low, high = wilson_interval(score.misses, len(recording.windows))
                print(
                    f"{name}, on noise of {bed}, {run}: {100 * score.miss_rate:.1f} % "
                    f"({100 * low:.1f} to {100 * high:.1f}) of "
                    f"{len(recording.windows)} missed; {score.false_alarms} false "
                    f"alarms in {score.hours:.2f} h, {rare} of them at words that "
                    "training hardly has"
                )
                if result.speakers is not None:
                    print(f"    {result.speakers.text(missed=True)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lists", type=Path, required=True)
    parser.add_argument("--run", action="append", required=True)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--tapes", type=float, help="seconds of each; none: no tapes")
    options = parser.parse_args()
    task = Task("gsc10")
    clips = {split: data.load(split, task, options.data) for split in LISTS}
    groups = groups_of(clips, options.lists)
    of_clips(groups, options.run, options.teacher)
    if options.tapes:
        of_tapes(groups, options.run, options.data, options.tapes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
