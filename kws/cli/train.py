"""Train a keyword spotter: float, quantization-aware, converted and checked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kws.cli import _options

if TYPE_CHECKING:
    from kws.recipe import Recipe
    from kws.train import RunOptions

GENTLER = 4  # epochs and learning rate of a training that begins with weights


@click.command(
    epilog="Example: kws train --preset kwt-tiny --task gsc10 --out runs/tiny",
)
@_options.preset
@click.option(
    "--recipe",
    "recipe_file",
    type=_options.PATH,
    help="A recipe of your own (.toml); instead of --preset.",
)
@click.option(
    "--from",
    "source",
    metavar="RUN",
    help="Begin with the weights of RUN (a shipped network, say): its recipe, with a "
    "quarter of the epochs and of the learning rate.",
)
@_options.task
@_options.words()
@_options.out("Folder of the run, and its name.", required=True)
@_options.clip_seconds()
@click.option("--epochs", type=click.IntRange(1), help="Float epochs.")
@_options.qat_epochs()
@click.option("--variants", type=click.IntRange(1), help="Augmented copies of a clip.")
@_options.seed()
@_options.run
@_options.json
def command(
    preset: str | None,
    recipe_file: Path | None,
    source: str | None,
    task: str | None,
    words: tuple[str, ...] | None,
    out: Path,
    clip_seconds: float | None,
    epochs: int | None,
    qat_epochs: int | None,
    variants: int | None,
    seed: int | None,
    options: RunOptions,
    as_json: bool,
) -> None:
    """Train a keyword spotter and put the run in --out.

    A run that was stopped goes on where it was: type the same command again. It is
    called what its folder is called, unless the recipe has a name.

    With --tape, validation tapes choose the epoch of the tuning and then the detector:
    the fewest misses at --false-alarms, as kws calibrate counts them.

    With --from, a network that is trained already learns other words, voices or rooms;
    it keeps what it knows of words that stay. With --recipe or --preset, epochs and
    learning rate are that recipe's.
    """
    from kws import bundle as bundles
    from kws import recipe as recipes
    from kws import train
    from kws.cli._run import show, with_changes
    from kws.errors import KwsError, quoted
    from kws.shape import with_clip_seconds

    if preset is not None and recipe_file is not None:
        raise KwsError(
            "Give --preset or --recipe, not both. Received: "
            f"--preset {preset} --recipe {recipe_file}",
            f"kws train --recipe {quoted(recipe_file)} --out {quoted(out)}",
        )
    if recipe_file is not None and recipe_file.suffix != ".toml":
        raise KwsError(
            f"--recipe takes a .toml file. Received: {str(recipe_file)!r}",
            f"kws train --preset kwt-tiny --out {quoted(out)}",
        )
    name = out.resolve().name
    begin = None if source is None else bundles.load(source)
    if begin is not None and not (recipe_file or preset):
        recipe = _to_go_on(begin.recipe, name)
    else:
        recipe = recipes.load(str(recipe_file or preset or "kwt-tiny"), name)
    recipe = with_changes(
        _with_task(recipe, task, words or (), out),
        {
            "train": {"epochs": epochs, "seed": seed},
            "quantize": {"epochs": qat_epochs},
            "augment": {"variants": variants},
        },
    )
    if clip_seconds is not None:
        recipe = with_clip_seconds(recipe, clip_seconds)
    show(train.train(recipe, out, options, begin), as_json)


def _to_go_on(recipe: Recipe, name: str) -> Recipe:
    """A trained network's recipe, for a shorter and gentler training."""
    settings = dataclasses.replace(
        recipe.train,
        epochs=max(1, recipe.train.epochs // GENTLER),
        learning_rate=recipe.train.learning_rate / GENTLER,
    )
    detector = dataclasses.replace(recipe.detector, word_thresholds=())
    return dataclasses.replace(recipe, name=name, train=settings, detector=detector)


def _with_task(
    recipe: Recipe, task: str | None, words: tuple[str, ...], out: Path
) -> Recipe:
    """The recipe with the task of the command line."""
    from kws.errors import KwsError, quoted

    if words and task not in (None, "custom"):
        raise KwsError(
            f"--words makes a task of its own. Received: --task {task} --words "
            f"{','.join(words)}",
            f"kws train --words {quoted(','.join(words))} --out {quoted(out)}",
        )
    if words:
        changed = dataclasses.replace(recipe.task, name="custom", words=words)
    elif task is not None:
        changed = dataclasses.replace(recipe.task, name=task)
    else:
        return recipe
    return dataclasses.replace(recipe, task=changed)
