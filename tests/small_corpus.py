"""A corpus of tones in the Speech Commands layout: small, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kws.data.audio import wav_bytes

SPEAKERS = {  # by the SHA-1 rule
    "train": ["00000001", "00000003", "00000004", "00000005"],
    "val": ["a69b9b3e", "439c84f4"],
    "test": ["bb05582b", "97f4c236"],
}

# Of a recipe: a task for such a corpus, and a network that is trained in seconds.
NETWORK = """
[task]
unknown_percent = 50.0
silence_percent = 50.0
[model]
stem_channels = 4
dim = 12
head_dim = 12
mlp_dim = 16
layers = 1
"""


def tone(hertz: float, samples: int = 16000, level: float = 3000.0) -> np.ndarray:
    """int16 [samples] at 16 kHz."""
    return np.rint(
        level * np.sin(2 * np.pi * hertz * np.arange(samples) / 16000)
    ).astype(np.int16)


def make(root: Path, words: tuple[str, ...] = ("yes", "no", "cat", "dog")) -> Path:
    """A clip by each speaker for each word, and two noises of 30 s."""
    for w, word in enumerate(words):
        (root / word).mkdir(parents=True)
        speakers = [s for group in SPEAKERS.values() for s in group]
        for s, speaker in enumerate(speakers):
            pcm = tone(300 + 100 * w + 7 * s)
            file = root / word / f"{speaker}_nohash_0.wav"
            file.write_bytes(wav_bytes(pcm))
    (root / "_background_noise_").mkdir()
    rng = np.random.default_rng(0)
    for name in ("hiss", "rush"):
        pcm = rng.integers(-2000, 2000, 30 * 16000).astype(np.int16)
        (root / "_background_noise_" / f"{name}.wav").write_bytes(wav_bytes(pcm))
    return root


def glides(seconds: int, seed: int) -> np.ndarray:
    """int16 [samples]: tones that rise or fall, one a second; a network takes some for
    words."""
    rng = np.random.default_rng(seed)
    t = np.arange(16000) / 16000
    out = []
    for _ in range(seconds):
        low, high = rng.uniform(150, 900), rng.uniform(-1500, 1500)
        made = sum(np.sin(2 * np.pi * k * (low + high * t) * t) / k for k in (1, 2, 3))
        bell = np.exp(-((t - 0.5) ** 2) / 0.02)
        out.append(rng.uniform(500, 6000) * bell * made + rng.normal(0, 30, len(t)))
    return np.concatenate(out).astype(np.int16)
