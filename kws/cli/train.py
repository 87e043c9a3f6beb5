"""Train a keyword spotter: float, quantization-aware, converted and checked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from kws.cli import _options


@click.command(
    epilog="Example: kws train --preset kwt-tiny --task gsc10 --out runs/tiny",
)
@click.option("--preset", help="A shipped recipe (default: kwt-tiny).")
@click.option(
    "--recipe",
    "recipe_file",
    type=click.Path(path_type=Path),
    help="A recipe of your own (.toml); instead of --preset.",
)
@click.option("--task", help="gsc10, gsc12, gsc35 or custom (with --words).")
@click.option("--words", default="", help="Your own words: --words 'yes,no,hey robot'.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of audio.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run."
)
@click.option(
    "--teacher", type=click.Path(path_type=Path), help="A .tflite to distil from."
)
@click.option("--teacher-labels", default="", help="Names of its logits, in order.")
@_options.also
@_options.pool
@click.option("--epochs", type=click.IntRange(1), help="Float epochs.")
@click.option("--qat-epochs", type=click.IntRange(0), help="QAT epochs; 0 = PTQ.")
@click.option("--variants", type=click.IntRange(1), help="Augmented copies of a clip.")
@click.option("--seed", type=click.IntRange(0), help="Seeds everything.")
@_options.distribute
@click.option("--limit", type=click.IntRange(1), help="First N clips of each split.")
@click.option("--restart", is_flag=True, help="Forget what --out holds.")
@click.option("--no-convert", is_flag=True, help="Stop before model.tflite.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    preset: str | None,
    recipe_file: Path | None,
    task: str | None,
    words: str,
    data: Path | None,
    out: Path,
    teacher: Path | None,
    teacher_labels: str,
    also: tuple[Path, ...],
    pool: Path | None,
    epochs: int | None,
    qat_epochs: int | None,
    variants: int | None,
    seed: int | None,
    distribute: str,
    limit: int | None,
    restart: bool,
    no_convert: bool,
    as_json: bool,
) -> None:
    """Train a keyword spotter and put the run in --out.

    A run that was stopped goes on where it was: type the same command again.
    """
    from kws import recipe as recipes
    from kws import train
    from kws.errors import KwsError

    if preset is not None and recipe_file is not None:
        raise KwsError(
            "Give --preset or --recipe, not both. Received: "
            f"--preset {preset} --recipe {recipe_file}",
            f"kws train --recipe {recipe_file} --out {out}",
        )
    if recipe_file is not None and recipe_file.suffix != ".toml":
        raise KwsError(
            f"--recipe takes a .toml file. Received: {str(recipe_file)!r}",
            f"kws train --preset kwt-tiny --out {out}",
        )
    recipe = recipes.load(str(recipe_file or preset or "kwt-tiny"))
    recipe = train.with_task(recipe, task, names(words))
    changes: dict[str, dict[str, Any]] = {
        "train": {"epochs": epochs, "seed": seed},
        "quantize": {"epochs": qat_epochs},
        "augment": {"variants": variants},
    }
    recipe = with_changes(recipe, changes)
    bundle = train.train(
        recipe,
        out,
        data,
        teacher=teacher,
        teacher_labels=names(teacher_labels) or None,
        pool_folder=pool,
        also=also,
        distribute=distribute,
        restart=restart,
        convert=not no_convert,
        limit=limit,
    )
    show(bundle, as_json)


def names(text: str) -> tuple[str, ...]:
    """'yes, no' -> ('yes', 'no')."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def with_changes(recipe: Any, changes: dict[str, dict[str, Any]]) -> Any:
    """The recipe with the options of the command line that were given."""
    for section, table in changes.items():
        given = {key: value for key, value in table.items() if value is not None}
        changed = dataclasses.replace(getattr(recipe, section), **given)
        recipe = dataclasses.replace(recipe, **{section: changed})
    return recipe


def show(bundle: Any, as_json: bool) -> None:
    """Print what a run or a conversion gave."""
    converted = bundle.model_path.is_file()
    if as_json:
        table = {
            "run": str(bundle.path),
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
        click.echo(f"Next: kws eval {bundle.path} --split test --engine device")
    else:
        click.echo(f"Wrote {bundle.path}. Next: kws convert {bundle.path}")
