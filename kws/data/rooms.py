"""From a mouth to a microphone: distance, room, and what the microphone hears.

Rooms are boxes. Sound comes straight, then from mirror images of the mouth behind the
walls (Allen and Berkley, 1979), then from everywhere, as noise that dies away; how loud
each is follows from distance, size and how much the walls swallow. A microphone has
limits and a few decibels of its own taste.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from kws.data.audio import SAMPLE_RATE

SPEED_OF_SOUND = 343.0  # metres a second
IMAGES = 3  # reflections that images are made of; what follows is noise
SIDES_M = ((2.5, 8.0), (2.5, 6.0), (2.3, 3.2))  # of rooms, at least and at most
DECAY_S = (0.15, 0.8)  # until sound has lost 60 dB
DISTANCE_M = (0.15, 3.0)
_WALL_M = 0.3  # how near mouth and microphone come to a wall
# Hertz: where a microphone and its box begin to hear, and where they end.
LOW_HZ, HIGH_HZ = (30.0, 250.0), (3800.0, 8000.0)
TASTE_DB = 3.0  # deviation of each octave from the next


@dataclass(frozen=True)
class Room:
    """A room, someone who speaks in it, and a microphone.

    Args:
        sides_m: Length, width, height.
        decay_s: Seconds until a sound has lost 60 dB.
        mouth_m: Where the mouth is, from one corner.
        ear_m: Where the microphone is.
    """

    sides_m: tuple[float, float, float]
    decay_s: float
    mouth_m: tuple[float, float, float]
    ear_m: tuple[float, float, float]

    @property
    def distance_m(self) -> float:
        """From mouth to microphone."""
        return math.dist(self.mouth_m, self.ear_m)


def drawn(rng: np.random.Generator) -> Room:
    """A room as people have them, near distances as likely as far ones (by ratio)."""
    sides = np.array([rng.uniform(*side) for side in SIDES_M])
    decay_s = float(np.exp(rng.uniform(*np.log(DECAY_S))))
    ear = _WALL_M + rng.random(3) * (sides - 2 * _WALL_M)
    distance = float(np.exp(rng.uniform(*np.log(DISTANCE_M))))
    direction = rng.standard_normal(3)
    mouth = ear + distance * direction / np.linalg.norm(direction)
    # Nobody speaks within a wall: then from nearer.
    mouth = np.clip(mouth, _WALL_M, sides - _WALL_M)
    x, y, z = sides.tolist()
    return Room((x, y, z), decay_s, tuple(mouth.tolist()), tuple(ear.tolist()))


def response(room: Room, rng: np.random.Generator) -> np.ndarray:
    """A room's impulse response.

    Args:
        room: The room.
        rng: Draws the noise of late sound.

    Returns:
        float32 [n], 16 kHz, `decay_s` long; the direct sound is 1.0, first.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> heard = response(drawn(rng), rng)
        >>> float(heard[0]), int(abs(heard).argmax())
        (1.0, 0)
    """
    sides, mouth, ear = map(np.array, (room.sides_m, room.mouth_m, room.ear_m))
    volume = float(np.prod(sides))
    surface = 2 * float(volume * (1 / sides).sum())
    # Eyring: what share of a sound a wall swallows, for it to die away like that.
    lost = 24 * math.log(10) * volume / (SPEED_OF_SOUND * surface * room.decay_s)
    swallowed = 1 - math.exp(-lost)
    mirrors = np.array(
        [
            way
            for way in itertools.product(range(-IMAGES, IMAGES + 1), repeat=3)
            if sum(map(abs, way)) <= IMAGES
        ]
    )
    # The image after n reflections along an axis: every second one is reversed.
    places = np.where(
        mirrors % 2 == 0, mirrors * sides + mouth, (mirrors + 1) * sides - mouth
    )
    way = np.maximum(np.linalg.norm(places - ear, axis=1), 0.1)
    direct = max(room.distance_m, 0.1)
    loud = (1 - swallowed) ** (np.abs(mirrors).sum(axis=1) / 2) * direct / way
    at = np.rint((way - direct) / SPEED_OF_SOUND * SAMPLE_RATE).astype(int)
    size = max(2, int(room.decay_s * SAMPLE_RATE))
    inside = (at >= 0) & (at < size)
    heard = np.zeros(size, np.float32)
    np.add.at(heard, at[inside], loud[inside])
    # Diffuse sound, where images end: its energy as statistics of rooms have it.
    begin = int(IMAGES * float(sides.min()) / SPEED_OF_SOUND * SAMPLE_RATE)
    energy = 16 * math.pi * (1 - swallowed) / (surface * swallowed) * direct**2
    time = np.arange(size) / (room.decay_s * SAMPLE_RATE)
    fall = np.exp(-6.9 * time)
    late = rng.standard_normal(size, dtype=np.float32) * fall
    late *= math.sqrt(energy / float(np.sum(fall**2)))
    late[:begin] = 0
    heard += late.astype(np.float32)
    return heard / heard[0]


def microphone(rng: np.random.Generator, size: int) -> np.ndarray:
    """What a microphone makes of each frequency.

    Args:
        rng: Draws limits and taste.
        size: Samples of the transform.

    Returns:
        float32 [size // 2 + 1], amplitudes for `numpy.fft.rfft`.
    """
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 1.0)
    octaves = 62.5 * 2 ** np.arange(8)
    taste = np.interp(np.log(hertz), np.log(octaves), rng.normal(0, TASTE_DB, 8))
    low = np.exp(rng.uniform(*np.log(LOW_HZ)))
    high = np.exp(rng.uniform(*np.log(HIGH_HZ)))
    # Butterworth's magnitudes: second order below, fourth above.
    gain = 10 ** (taste / 20)
    gain /= np.sqrt(1 + (low / hertz) ** 4) * np.sqrt(1 + (hertz / high) ** 8)
    return gain.astype(np.float32)


def heard(said: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is heard of a voice in a room that is drawn, the sound dying away behind it.

    Args:
        said: float32 [n], 16 kHz.
        rng: Draws the room.

    Returns:
        float32 [n + the room's decay]. Beside a noise, it goes through `microphone`
        together with that.

    Example:
        >>> rng = np.random.default_rng(2)
        >>> len(heard(np.ones(16000, np.float32), rng)) > 16000
        True
    """
    tail = response(drawn(rng), rng)
    size = len(said) + len(tail)
    spectrum = np.fft.rfft(said, size) * np.fft.rfft(tail, size)
    return np.fft.irfft(spectrum, size).astype(np.float32)
