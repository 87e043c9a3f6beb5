"""What is heard, once more: kws_detector.h's rules in plain Python integers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import sample_models

from kws.bundle import Bundle
from kws.features import extract

ONE = 32767  # Q15


@dataclass
class Settings:
    labels: int = 4
    first_word: int = 2
    smoothing: int = 1
    refractory: int = 0  # decisions
    threshold: list[float] = field(default_factory=lambda: [0.7] * 4)
    rearm: list[float] = field(default_factory=lambda: [0.4] * 4)
    scale: float = 0.1  # of a logit's step

    @property
    def exponentials(self) -> np.ndarray:
        return np.rint(ONE * np.exp(-self.scale * np.arange(256))).astype(np.uint16)


class Model:
    """The state machine; one `step` a decision."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.past = [[0] * settings.labels for _ in range(settings.smoothing)]
        self.armed = [True] * settings.labels
        self.last_heard = [-(10**9)] * settings.labels
        self.decision = 0
        self.table = [int(value) for value in settings.exponentials]

    def step(self, logits: np.ndarray) -> tuple[int, list[int]]:
        """The label that is heard, -1 for none; every label's smoothed posterior."""
        settings = self.settings
        weights = [self.table[int(logits.max()) - int(logit)] for logit in logits]
        total = sum(weights)
        posterior = [(weight * ONE + total // 2) // total for weight in weights]
        self.past = [*self.past[1:], posterior]
        scores = [
            (sum(column) + settings.smoothing // 2) // settings.smoothing
            for column in zip(*self.past, strict=True)
        ]
        ready = []
        for label in range(settings.first_word, settings.labels):
            if scores[label] < round(settings.rearm[label] * ONE):
                self.armed[label] = True
            rested = self.decision - self.last_heard[label] >= settings.refractory
            loud = scores[label] >= round(settings.threshold[label] * ONE)
            if self.armed[label] and rested and loud:
                ready.append(label)
        heard = max(ready, key=lambda label: (scores[label], -label), default=-1)
        if heard >= 0:
            self.armed[heard] = False
            self.last_heard[heard] = self.decision
        self.decision += 1
        return heard, scores


def detect(bundle: Bundle, pcm: np.ndarray) -> list[tuple[str, int, int, int]]:
    """What a recording should give: features at once, TFLM for the network, `Model`.

    Returns:
        Word, start and end of its window in milliseconds, score in Q15.
    """
    spec, detector = bundle.recipe.features, bundle.recipe.detector
    frames = extract(pcm, spec)
    starts = range(0, len(frames) - spec.frames + 1, detector.hop_frames)
    windows = np.stack([frames[start : start + spec.frames] for start in starts])
    logits = sample_models.tflm_logits(bundle.model_bytes(), windows)
    hop_ms = detector.hop_frames * spec.hop / 16
    words = [label for label in bundle.labels if not label.startswith("_")]
    own = detector.word_thresholds or [detector.threshold] * len(words)
    count, first_word = len(bundle.labels), len(bundle.labels) - len(words)
    model = Model(
        Settings(
            count,
            first_word,
            detector.smoothing,
            math.ceil(detector.refractory_ms / hop_ms),
            [1.0] * first_word + list(own),
            [detector.rearm] * count,
            sample_models.logit_scale(bundle.model_bytes()),
        )
    )
    events = []
    for start, row in zip(starts, logits, strict=True):
        heard, scores = model.step(row)
        if heard >= 0:
            begin = start * spec.hop
            end = begin + spec.clip_samples
            word = bundle.labels[heard]
            events.append((word, begin // 16, end // 16, scores[heard]))
    return events
