"""Corpora and tapes of real people's wake words, out of a folder of ambient sound.

Recordings whose kind is `wake` (kws/data/ambient.py) say the word that is their text
somewhere in a few seconds. This makes

    OUT/recordings/WORD/    N recordings a word of the split train, for `kws data
                            import`
    OUT/val/, OUT/test/     a tape each: every recording of the split once, in noise
    OUT/val-and-rest/       val's, and those of train that are not among the N: the more
                            words, the surer the choice

    python tools/wake_words.py AMBIENT --words alexa,computer --recordings 30 --out wake
    kws data import wake/recordings --out wake/corpus
    kws train --from kwt-stream-tiny --words alexa,computer --data wake/corpus ...
    kws calibrate RUN --tape wake/val-and-rest --tape speech.wav --false-alarms 1
    kws eval RUN --tape wake/test --tape speech-of-test.wav

A word's window on a tape is its whole recording, since nobody wrote down where in it
the word is. Noise of the folder's own split lies under all of it, `--snr-db` under the
loudest second of each recording.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from kws.data import ambient, audio, names, tape  # noqa: E402
from kws.data.audio import SAMPLE_RATE, wav_bytes  # noqa: E402

WAKE, NOISE = "wake", "noise"
PAUSE_S = 1.0
CLIPPED = 32767


def laid(
    recordings: list[tuple[str, np.ndarray]],
    noises: list[np.ndarray],
    snr_db: float,
    seed: int,
) -> tape.Tape:
    """The recordings one after another, with noise under them."""
    rng = np.random.default_rng(seed)
    parts, windows, at = [], [], 0
    pause = round(PAUSE_S * SAMPLE_RATE)
    for word, pcm in recordings:
        size = len(pcm) + pause
        noise = noises[int(rng.integers(len(noises)))]
        start = int(rng.integers(0, max(1, len(noise) - size)))
        under = np.resize(noise[start : start + size], size).astype(np.float64)
        rms = float(np.sqrt(np.mean(np.square(under)))) or 1.0
        under *= audio.loudest_second(pcm) / rms * 10 ** (-snr_db / 20)
        under[: len(pcm)] += pcm
        parts.append(np.clip(np.rint(under), -CLIPPED - 1, CLIPPED).astype(np.int16))
        windows.append(
            tape.Window(word, at / SAMPLE_RATE, (at + len(pcm)) / SAMPLE_RATE, snr_db)
        )
        at += size
    made = {"snr_db": snr_db, "seed": seed}
    return tape.Tape(np.concatenate(parts), windows, WAKE, list(windows), made)


def of_split(
    folder: Path, split: str, words: list[str]
) -> tuple[list[tuple[str, np.ndarray]], list[np.ndarray]]:
    """(word, samples) of the recordings that say one of the words, and the noise."""
    sounds = ambient.recordings(folder, split)
    keys = {names.key(word): word for word in words}
    said = [
        (keys[names.key(sound.text)], sound.pcm)
        for sound in sounds
        if sound.kind == WAKE and names.key(sound.text) in keys
    ]
    return said, ambient.beds([s for s in sounds if s.kind == NOISE], seconds=10)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--words", required=True, help="with commas between")
    parser.add_argument("--recordings", type=int, default=30)
    parser.add_argument("--snr-db", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.out.exists() and (
        not options.out.is_dir() or any(options.out.iterdir())
    ):  # recordings of an earlier call would be among this one's
        parser.error(f"--out: expected a new or empty folder. Received: {options.out}")
    words = [names.composed(word) for word in options.words.split(",")]
    rng = np.random.default_rng(options.seed)
    said, _ = of_split(options.folder, "train", words)
    rest = []
    for word in words:
        own = [pcm for name, pcm in said if name == word]
        place = options.out / "recordings" / word.replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        chosen = rng.permutation(len(own))[: options.recordings]
        for number, which in enumerate(chosen):
            # Nobody knows who speaks, so each counts as somebody else.
            file = place / f"person{which:04d}_nohash_{number}.wav"
            file.write_bytes(wav_bytes(own[which]))
        rest += [(word, own[i]) for i in sorted(set(range(len(own))) - set(chosen))]
        print(f"{word}: {len(chosen)} of {len(own)} recordings of train")
    for split in ("val", "test"):
        said, noises = of_split(options.folder, split, words)
        tapes = {split: said}
        if split == "val":
            tapes["val-and-rest"] = rest + said
        for name, recordings in tapes.items():
            made = laid(recordings, noises, options.snr_db, options.seed)
            tape.save(made, options.out / name / "wake.wav")
            print(f"{name}: {len(recordings)} words, {60 * made.hours:.1f} minutes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
