"""What the verbs that make or measure a run share: recipes, clips, what is shown."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from kws.bundle import Bundle
    from kws.data import Sources
    from kws.recipe import Recipe


def with_changes(recipe: Recipe, changes: dict[str, dict[str, Any]]) -> Recipe:
    """The recipe with the options of the command line that were given."""
    for section, table in changes.items():
        given = {key: value for key, value in table.items() if value is not None}
        changed = dataclasses.replace(getattr(recipe, section), **given)
        recipe = dataclasses.replace(recipe, **{section: changed})
    return recipe


def check_clips(
    bundle: Bundle, task: str | None, data: Path | None, also: tuple[Path, ...]
) -> Sources:
    """Where RUN's clips are; a task or a folder that is none is refused here, before a
    network is loaded."""
    from kws import data as datasets

    wanted = bundle.recipe.task
    datasets.labels(dataclasses.replace(wanted, name=task or wanted.name))
    folders = datasets.of_run(bundle, data, also)
    for folder in (folders.data, *folders.also):
        datasets.open_corpus(folder)
    return folders


def next_line(*words: object) -> str:
    """The command to go on with, as it can be typed.

    Example:
        >>> from pathlib import Path
        >>> next_line("kws", "eval", Path("my run"))
        "Next: kws eval 'my run'"
    """
    return "Next: " + shlex.join(str(word) for word in words)


def curves(run: Path) -> str:
    """The command that shows a run's curves in TensorBoard.

    Example:
        >>> from pathlib import Path
        >>> curves(Path("runs/my run"))
        "tensorboard --logdir 'runs/my run/tensorboard'"
    """
    return shlex.join(["tensorboard", "--logdir", str(run / "tensorboard")])


def show(bundle: Bundle, as_json: bool) -> None:
    """Print what a run or a conversion gave; nothing on a worker that wrote none."""
    if not (bundle.path / "bundle.json").is_file():
        return
    converted = bundle.model_path.is_file()
    if as_json:
        table = {
            "run": str(bundle.path),
            "name": bundle.recipe.name,
            "task": bundle.recipe.task.name,
            "labels": list(bundle.labels),
            "hash": bundle.hash if converted else None,
            "model_bytes": bundle.model_path.stat().st_size if converted else None,
            **bundle.metrics,
        }
        click.echo(json.dumps(table))
        return
    facts = bundle.metrics.get("train", {})
    for key, text in (
        ("val_accuracy_float", "float"),
        ("val_accuracy_ptq", "quantized, not tuned"),
        ("val_accuracy_qat", "quantized, tuned"),
    ):
        if key in facts:
            click.echo(
                f"Validation, {text}: {100 * facts[key]:.2f} % of "
                f"{facts['validation_clips']} clips"
            )
    if converted:
        from kws.convert import describe

        if "conversion" in bundle.metrics:
            click.echo(f"Conversion check: {describe(bundle.metrics['conversion'])}")
        size = bundle.model_path.stat().st_size
        click.echo(f"Wrote {bundle.model_path} ({size} bytes)")
        if (bundle.path / "results.csv").is_file():
            click.echo(
                f"Curves: {bundle.path / 'results.csv'}, or, with tensorboard "
                f"installed: {curves(bundle.path)}"
            )
        click.echo(next_line("kws", "eval", bundle.path))
        click.echo(next_line("kws", "report", bundle.path))
    else:
        click.echo(f"Wrote {bundle.path}")
        click.echo(next_line("kws", "convert", bundle.path))
