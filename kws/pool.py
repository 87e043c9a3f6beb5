"""The training pool: augmented copies of every clip, as int8 features, made once.

Augmenting and extracting a clip costs about as much as ten training steps on it, so
it is done `augment.variants` times per clip before training, not once per epoch. The
pool lies in one file that is mapped into memory, and its making goes on where it was
stopped.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kws import bundle, features
from kws.data import ClipSet, ambient, augment, splice
from kws.data.ambient import Sound
from kws.errors import KwsError
from kws.lock import locked
from kws.progress import Progress
from kws.recipe import SILENCE, Recipe

CHUNK = 4096  # clips augmented at a time: 128 MB of audio
CANDIDATES = 6  # splices made for each that is kept: most are no word at all
NO_FLOOR = -128
NO_WORD = -1  # label of ambient windows: silence or unknown, nobody says which
AMBIENT_GAIN_DB = 15.0  # people sit nearer or further away from what they don't say
AMBIENT_MIXED = 0.3  # share of ambient windows that are mixed with another sound


@dataclass(frozen=True)
class Pool:
    """Augmented features of the training clips, and of splices of them if asked for.

    Args:
        features: int8 [variants, N, frames, mel_bins], mapped from a file.
        label: int32 [N].
        teacher: float32 [variants, N, labels] logits to distil from, or None.
        ambient: int8 [M, 2, frames, mel_bins]: windows without the words, each with the
            one that follows it, or None.
    """

    features: np.ndarray
    label: np.ndarray
    teacher: np.ndarray | None = None
    ambient: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label)


def build(
    clips: ClipSet,
    noises: list[np.ndarray],
    recipe: Recipe,
    folder: Path,
    teacher: Any = None,
    sounds: Sequence[Sound] = (),
) -> Pool:
    """Make the pool in `folder`, or go on making it, or find it made.

    Args:
        clips: The training clips.
        noises: Background noise to mix in (kws.data.noise_bank); that of `sounds` is
            added.
        recipe: Its augment and features sections and train.seed are used; no splices
            without a teacher.
        folder: Where pools are kept, each in a folder of its own.
        teacher: kws.teacher.Teachers, or None.
        sounds: Ambient recordings (kws.data.ambient); windows of them are as many as
            `augment.ambient_percent` asks for.

    Returns:
        The pool, read-only.

    Raises:
        KwsError: a teacher that knows nothing of these clips.
    """
    if teacher is not None:
        teacher.try_on(clips)
    # The floor comes last, in `batches`: what varies the loudness comes before it.
    spec = dataclasses.replace(recipe.features, floor=NO_FLOOR)
    recipe = dataclasses.replace(recipe, features=spec)
    key = _key(clips, noises, recipe, teacher, sounds)
    folder = folder / key[:16]
    shortest = max(ambient.SHORTEST_BED_S, recipe.task.clip_seconds)
    noises = [*noises, *ambient.beds(sounds, shortest)]
    with locked(folder / "lock"):  # another run may be making the very same
        made = _build(clips, noises, recipe, folder, key, teacher)
        if not sounds or recipe.augment.ambient_percent <= 0:
            return made
        path = folder / "ambient.npy"
        if not path.is_file():
            _ambient(sounds, noises, recipe, len(made), path)
        return dataclasses.replace(made, ambient=np.load(path, mmap_mode="r"))


def _ambient(
    sounds: Sequence[Sound],
    noises: list[np.ndarray],
    recipe: Recipe,
    clips: int,
    path: Path,
) -> None:
    """Write the ambient windows, each with the one that follows it."""
    spec, settings = recipe.features, recipe.augment
    variants = max(1, settings.variants)
    count = variants * max(1, round(clips * settings.ambient_percent / 200))
    twice = dataclasses.replace(spec, frames=2 * spec.frames)
    settings = dataclasses.replace(
        settings,
        shift_ms=0.0,
        gain_db=max(settings.gain_db, AMBIENT_GAIN_DB),
        noise_probability=min(settings.noise_probability, AMBIENT_MIXED),
    )
    noises = [noise for noise in noises if len(noise) >= twice.clip_samples]
    partial = path.with_name(".ambient.partial.npy")
    shape = (count, 2, spec.frames, spec.mel_bins)
    stored = _array(partial, np.int8, shape, fresh=True)
    bar = Progress("ambient", count)
    for number, first in enumerate(range(0, count, CHUNK)):
        size = min(CHUNK, count - first)
        seed = recipe.train.seed * 100_000 + number
        pcm = ambient.windows(sounds, size, twice.clip_samples, [seed, 5])
        pcm = augment.augment_many(pcm, seed, settings, noises)
        made = features.of_clips(pcm, twice)
        stored[first : first + size] = made.reshape(size, *shape[1:])
        bar.at(first + size)
    stored.flush()
    del stored
    bar.end()
    partial.replace(path)


def _build(
    clips: ClipSet,
    noises: list[np.ndarray],
    recipe: Recipe,
    folder: Path,
    key: str,
    teacher: Any,
) -> Pool:
    state_path = folder / "pool.json"
    state = bundle.read_json(state_path) if state_path.is_file() else {}
    fresh = state.get("key") != key
    done = set() if fresh else set(state["done"])
    variants = max(1, recipe.augment.variants)
    spliced = 0
    if teacher is not None:
        spliced = round(len(clips) * recipe.augment.splice_percent / 100)
    label_path = folder / "label.npy"
    all_pcm, label = clips.pcm, clips.label
    if spliced and label_path.is_file() and state.get("whole"):
        label = np.load(label_path)
    elif spliced:
        pcm, heard = _splices(clips, spliced, recipe, teacher)
        all_pcm = np.concatenate([all_pcm, pcm])
        label = np.concatenate([label, heard])
        np.save(label_path, label)
    count = len(label)
    shape = (recipe.features.frames, recipe.features.mel_bins)
    stored = _array(folder / "features.npy", np.int8, (variants, count, *shape), fresh)
    logits = clean = None
    if teacher is not None:
        kinds = (count, len(clips.labels))
        clean = _array(folder / "clean.npy", np.float32, kinds, fresh)
        logits = _array(
            folder / "teacher.npy",
            np.float32,
            (variants, count, len(clips.labels)),
            fresh,
        )
    bar = Progress("features", variants * count, start=len(done) * min(CHUNK, count))
    for number, variant, first in _chunks(variants, count):
        if number in done:
            continue
        part = slice(first, min(first + CHUNK, count))
        # A number for every (seed, variant, chunk): augment_many adds the clip's.
        seed = (recipe.train.seed * 1000 + variant) * 100_000 + first // CHUNK
        pcm = augment.augment_many(all_pcm[part], seed, recipe.augment, noises)
        stored[variant, part] = features.of_clips(pcm, recipe.features)
        if logits is not None and clean is not None:
            if variant == 0 and teacher.of_clean:
                heard = all_pcm[part]
                frames = features.of_clips(heard, recipe.features)
                clean[part] = teacher.clean(heard, frames, bar)
                clean.flush()
            frames = stored[variant, part]
            logits[variant, part] = teacher.logits(pcm, frames, bar, clean[part])
            logits.flush()
        stored.flush()
        done.add(number)
        whole = len(done) == variants * -(-count // CHUNK)
        state = {"key": key, "done": sorted(done), "whole": whole}
        bundle.write_atomic(state_path, json.dumps(state).encode())
        bar.at(variant * count + part.stop)
    bar.end()
    taught = None
    if logits is not None:
        taught = np.load(folder / "teacher.npy", "r")
    return Pool(
        features=np.load(folder / "features.npy", mmap_mode="r"),
        label=label,
        teacher=taught,
    )


def _splices(
    clips: ClipSet, count: int, recipe: Recipe, teacher: Any
) -> tuple[np.ndarray, np.ndarray]:
    """`count` splices at most (int16 [N, samples]) and what the teacher hears."""
    labels = clips.labels
    silence = labels.index(SILENCE) if SILENCE in labels else None
    words = clips.pcm if silence is None else clips.pcm[clips.label != silence]
    wanted = CANDIDATES * count
    bar = Progress("splices", wanted)
    parts, heard = [], []
    for number, first in enumerate(range(0, wanted, CHUNK)):
        size = min(CHUNK, wanted - first)
        made = splice.splice(words, size, recipe.train.seed * 100_000 + number)
        logits = teacher.logits(made, features.of_clips(made, recipe.features), bar)
        bar.at(first + size)
        parts.append(made)
        heard.append(logits.argmax(axis=1).astype(np.int32))
    bar.end()
    pcm, label = np.concatenate(parts), np.concatenate(heard)
    kept = splice.choose(label, len(labels), count, silence)
    return pcm[kept], label[kept]


def _chunks(variants: int, count: int) -> Iterator[tuple[int, int, int]]:
    number = 0
    for variant in range(variants):
        for first in range(0, count, CHUNK):
            yield number, variant, first
            number += 1


def _array(path: Path, dtype: Any, shape: tuple[int, ...], fresh: bool) -> np.memmap:
    """The file as an array in memory, new or as it is, with room for all of it."""
    new = fresh or not path.is_file()
    try:
        array = np.lib.format.open_memmap(path, "w+" if new else "r+", dtype, shape)
        _allocate(path, array.offset if new else path.stat().st_size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        if new:
            path.unlink(missing_ok=True)
        needed = math.prod(shape) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(path.parent).free
        raise KwsError(
            f"There is no room for the training pool ({error.strerror}). Expected "
            f"{needed:,} bytes free, {needed / 1e9:.1f} GB. Received: {free:,} for "
            f"{path}",
            "Make room, put the pool on another disk (--pool DIR), or take fewer "
            "copies of each clip (--variants 2).",
        ) from None
    return array


def _allocate(path: Path, written: int) -> None:
    """Give a file all of its blocks: a mapped one that gets them only as it is written
    ends the process (SIGBUS) where the disk is full.

    Args:
        path: The file, of its full size.
        written: Bytes at its start that have their blocks.
    """
    size = path.stat().st_size
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except AttributeError:  # not on this system
            pass
        except OSError as error:  # not on this file system
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        file.seek(written)
        while file.tell() < size:
            file.write(bytes(min(1 << 20, size - file.tell())))


def _key(
    clips: ClipSet,
    noises: Sequence[np.ndarray],
    recipe: Recipe,
    teacher: Any,
    sounds: Sequence[Sound],
) -> str:
    """Equal keys, equal pools: of the clips, the settings, the teacher and the sounds.

    Of recordings their samples count: two corpora may have the same names. What acts on
    the batch, not on the pool, is left out.
    """
    settings = {
        name: value
        for name, value in dataclasses.asdict(recipe.augment).items()
        if not name.startswith(
            ("time_mask", "mel_", "mix_", "roll_", "filter_", "hold_")
        )
    }
    extracted = dataclasses.asdict(recipe.features)
    del extracted["floor"]
    spec: dict[str, Any] = {
        "clips": clips.manifest_hash,
        "audio": clips.audio_hash,
        "noises": ambient.fingerprint(noises),
        "augment": settings,
        "features": extracted,
        "seed": recipe.train.seed,
        "teacher": None if teacher is None else teacher.key,
    }
    if sounds:
        spec["ambient"] = ambient.fingerprint(
            [sound.pcm for sound in sounds], [sound.kind for sound in sounds]
        )
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def batches(
    pool: Pool, recipe: Recipe, size: int, phase: int, epoch: int, parts: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """One epoch of batches, a function of (seed, phase, epoch) alone.

    Every clip comes once, as one of its variants, moved by a few frames and masked
    (SpecAugment); the last, smaller batch is left out. Where the pool has ambient
    windows, a share of every batch is those.

    Args:
        pool: The pool.
        recipe: Its train and augment sections are used.
        size: Clips in a batch.
        phase: 0 float training, 1 QAT: they draw differently.
        epoch: From 0.
        parts: Replicas that share a batch; each has its share of ambient windows.

    Yields:
        features int8 [size, frames, mel_bins], label int32 [size] (`NO_WORD` for
        ambient windows), share float32 [size] (mix-up: the clip's share, the rest is
        its mirror clip's in the batch), and teacher float32 [size, labels] where the
        pool has it.
    """
    rng = np.random.default_rng([recipe.train.seed, phase, epoch])
    order = rng.permutation(len(pool))
    variant = rng.integers(0, len(pool.features), size=len(pool))
    pairs = ambient_pairs(pool, recipe, size // parts)
    first_at, second_at, clips_at = _places(size // parts, pairs, parts)
    count = len(clips_at)
    for first in range(0, len(pool) - count + 1, count):
        chosen = order[first : first + count]
        picked = pool.features[variant[chosen], chosen]
        picked = _roll(picked, rng, recipe.augment.roll_frames)
        label = np.full(size, NO_WORD, np.int32)
        label[clips_at] = pool.label[chosen]
        whole = np.empty((size, *picked.shape[1:]), np.int8)
        whole[clips_at] = picked
        if pairs:
            assert pool.ambient is not None
            drawn = rng.integers(0, len(pool.ambient), size=len(first_at))
            whole[first_at] = pool.ambient[drawn, 0]
            whole[second_at] = pool.ambient[drawn, 1]
        whole = augment.vary_spectrum(whole, rng, recipe.augment, recipe.features)
        floor = np.int8(recipe.features.floor)
        np.maximum(whole, floor, out=whole)
        whole = augment.mix_style(whole, rng, recipe.augment)
        np.maximum(whole, floor, out=whole)
        whole = augment.spec_augment(whole, rng, recipe.augment)
        batch = {
            "features": augment.hold(whole, rng, recipe.augment),
            "label": label,
            "share": np.ones(size, np.float32),
        }
        if recipe.train.mixup > 0:
            share = rng.beta(recipe.train.mixup, recipe.train.mixup, size)
            # The clip itself stays the larger part: its label is then still its own.
            batch["share"] = np.maximum(share, 1 - share).astype(np.float32)
            none = label == NO_WORD
            batch["share"][none | none[::-1]] = 1.0
        if pool.teacher is not None:
            batch["teacher"] = np.zeros((size, pool.teacher.shape[-1]), np.float32)
            batch["teacher"][clips_at] = pool.teacher[variant[chosen], chosen]
        yield batch


def ambient_pairs(pool: Pool, recipe: Recipe, size: int) -> int:
    """Pairs of ambient windows among `size` clips of a batch; 0 where there are none.

    Half of the pairs are heard one after the other, and half of them apart, so a batch
    has clips that come after ambient sound and clips that ambient sound comes after.
    """
    if pool.ambient is None:
        return 0
    return min(round(size * recipe.augment.ambient_percent / 200), size // 4)


def _places(
    size: int, pairs: int, parts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where in a batch the pairs' first windows lie, their second ones, and the clips.

    A causal network hears the first half of a part before its second half, clip by clip
    (kws/model/stream.py).
    """
    together, apart = pairs // 2, pairs - pairs // 2
    first = np.arange(pairs)
    second = size // 2 + np.r_[:together, pairs : pairs + apart]
    clips = np.setdiff1d(np.arange(size), np.r_[first, second] if pairs else [])
    starts = size * np.arange(parts)[:, None]
    return tuple((starts + at).ravel() for at in (first, second, clips))  # type: ignore[return-value]


def _roll(picked: np.ndarray, rng: np.random.Generator, most: int) -> np.ndarray:
    """Move every clip by -most..most frames; edges repeat the first or last frame."""
    if most < 1:
        return picked
    count, frames, _ = picked.shape
    moves = rng.integers(-most, most + 1, size=(count, 1))
    at = np.clip(np.arange(frames)[None, :] - moves, 0, frames - 1)
    return picked[np.arange(count)[:, None], at]
