"""Search a recipe with Optuna: loss against instructions and bytes, on a budget.

Every trial is a short `kws train` on one shared pool. What its network would cost is
measured first, with random weights, under QEMU: a second of noise as one stream, with a
decision at every hop of the detector. A network beyond the budget is not trained. The
study lies in a journal file: type the same command again to go on, in several processes
at once, or on several machines if they share the file.

    python tools/search.py SPACE.toml --study runs/study.log --trials 20 --epochs 8
    python tools/search.py SPACE.toml --study runs/study.log --trials 0   # the table

SPACE.toml is a recipe (base, [train] ...) with a table [space] of lists, each a key of
the recipe and its values:

    base = "kwt-tiny"
    [space]
    "model.dim" = [32, 40, 48]
    "model.layers" = [3, 4]
    "model.attention" = [["conv", "conv", "softmax"], ["conv", "performer", "reuse"]]
    "train.learning_rate" = [2e-3, 4e-3]

With --one-at-a-time every list's first value is the rule, and each of the others is
tried alone: an ablation. Its budget is none, unless one is given.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kws import bundle as bundles  # noqa: E402
from kws import recipe as recipes  # noqa: E402
from kws.errors import KwsError  # noqa: E402
from kws.recipe import Recipe  # noqa: E402

BOARD = "qemu-m4"
SECONDS = 3  # of noise that is counted


def variant(base: Recipe, choice: dict[str, Any]) -> Recipe:
    """`base` with the chosen values, by "section.key"."""
    table: dict[str, dict[str, Any]] = {}
    for name, value in choice.items():
        section, key = name.split(".")
        table.setdefault(section, {})[key] = _plain(value)
    return recipes.from_dict(table, base)


def storable(space: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The same, with lists (an entry for each block) as texts, which Optuna keeps."""
    return {
        key: [json.dumps(v) if isinstance(v, list) else v for v in values]
        for key, values in space.items()
    }


def _plain(value: Any) -> Any:
    """What `storable` made a text of."""
    listed = isinstance(value, str) and value.startswith("[")
    return json.loads(value) if listed else value


def alone(space: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The rule (first values), then each other value by itself."""
    rule = {key: values[0] for key, values in space.items()}
    changes = [{key: v} for key, values in space.items() for v in values[1:]]
    return [rule, *({**rule, **change} for change in changes)]


def cost(spec: Recipe) -> dict[str, int]:
    """What a network with random weights costs BOARD.

    Returns:
        "instructions" of a decision; "a_second": instructions of a second of noise,
        features included; "weights_bytes".
    """
    import numpy as np
    import sample_models

    from kws.deploy import boards, emission, per_second

    board = boards.load(BOARD)
    noise = np.random.default_rng(0).normal(0, 1000, SECONDS * 16000)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        bundle = sample_models.bundle(out / "run", spec, sample_models.network(spec))
        emitted = emission.emit_bundle(bundle, out / "model", board.core)
        counted = per_second.on_board(
            bundle, board, out / "model", out, noise.astype(np.int16)
        )
    return {
        "instructions": counted.decision,
        "a_second": counted.total,
        "weights_bytes": emitted.weights_bytes,
    }


def table(study: Any) -> str:
    """The study as Markdown, the best on top."""
    done = [trial for trial in study.trials if trial.state.is_finished()]
    keys = sorted({key for trial in done for key in trial.params})
    best = {trial.number for trial in study.best_trials}
    done.sort(key=lambda t: t.user_attrs.get("val_loss", 99.0))
    clips = next((t.user_attrs["val_clips"] for t in done if t.values), 0)
    head = [
        "trial",
        *keys,
        "M4 instructions",
        "a second",
        "weights, bytes",
        "loss on validation",
        f"accuracy on validation ({clips} clips)",
        "front",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for trial in done:
        known = trial.user_attrs
        trained = "val_loss" in known
        row = [
            str(trial.number),
            *(str(trial.params.get(key, "")).replace('"', "") for key in keys),
            f"{known.get('instructions', 0):,}",
            f"{known.get('a_second', 0):,}",
            f"{known.get('weights_bytes', 0):,}",
            f"{known['val_loss']:.3f}" if trained else known.get("why", "stopped"),
            _accuracy(known["val_accuracy"], clips) if trained else "",
            "yes" if trial.number in best else "",
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _accuracy(share: float, clips: int) -> str:
    from kws.intervals import wilson_interval

    low, high = wilson_interval(round(share * clips), clips)
    return f"{100 * share:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("space", type=Path)
    parser.add_argument("--study", type=Path, required=True, help="Journal file.")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--one-at-a-time", action="store_true", help="An ablation.")
    parser.add_argument(
        "--instructions", type=float, default=1e12, help="Budget, a second."
    )
    parser.add_argument("--weights", type=float, default=1e12, help="Budget, bytes.")
    parser.add_argument("--pool", type=Path, help="As kws train's.")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--also", type=Path, action="append", default=[])
    parser.add_argument("--ambient", type=Path, action="append", default=[])
    parser.add_argument("--teacher", type=Path, action="append", default=[])
    parser.add_argument("--clean-teacher", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path, help="Runs; default: beside the study.")
    options = parser.parse_args()

    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    content = tomllib.loads(options.space.read_text("utf-8"))
    space = storable(content.pop("space"))
    base = recipes.load(content.pop("base", "kwt-tiny"))
    base = recipes.from_dict(content, base)
    base = dataclasses.replace(
        base,
        train=dataclasses.replace(base.train, epochs=options.epochs),
        quantize=dataclasses.replace(base.quantize, epochs=0),
    )
    out = options.out or options.study.with_suffix("")

    def objective(trial: Any) -> tuple[float, ...]:
        from kws import train

        choice = {k: trial.suggest_categorical(k, v) for k, v in space.items()}
        for before in trial.study.trials:
            if before.params == trial.params and before.values:
                trial.set_user_attr("why", "tried before")
                raise optuna.TrialPruned("tried before")
        try:
            spec = variant(base, choice)
            price = cost(spec)
        except KwsError as error:
            trial.set_user_attr("why", "not possible")
            raise optuna.TrialPruned(str(error)) from None
        for key, figure in price.items():
            trial.set_user_attr(key, figure)
        if (
            price["a_second"] > options.instructions
            or price["weights_bytes"] > options.weights
        ):
            trial.set_user_attr("why", "over budget")
            raise optuna.TrialPruned("over budget")
        run = out / f"trial{trial.number}"
        train.train(
            spec,
            run,
            train.RunOptions(
                data=options.data,
                also=tuple(options.also),
                ambient=tuple(options.ambient),
                teacher=tuple(options.teacher),
                clean_teacher=tuple(options.clean_teacher),
                pool=options.pool or out / "pool",
                convert=False,
            ),
        )
        row = (run / "results.csv").read_text("utf-8").splitlines()
        last = dict(zip(row[0].split(","), row[-1].split(","), strict=True))
        for key in ("val_loss", "val_accuracy", "train_loss"):
            trial.set_user_attr(key, float(last[key]))
        facts = bundles.read_json(run / "metrics.json")["train"]
        trial.set_user_attr("val_clips", facts["validation_clips"])
        return float(last["val_loss"]), price["a_second"], price["weights_bytes"]

    options.study.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(options.study))),
        study_name="search",
        directions=["minimize"] * 3,
        sampler=optuna.samplers.TPESampler(seed=base.train.seed, n_startup_trials=6),
        load_if_exists=True,
    )
    if options.trials == 0:
        print(table(study))
        return 0
    cost(base)  # a missing compiler or emulator ends it here, not in every trial
    if options.one_at_a_time:
        # A trial that was killed stays "running" for ever: it is tried again.
        states = (TrialState.COMPLETE, TrialState.WAITING, TrialState.PRUNED)
        there = [
            trial.system_attrs.get("fixed_params") or trial.params
            for trial in study.get_trials(states=states)
        ]
        for choice in alone(space):
            if choice not in there:
                study.enqueue_trial(choice)
        # One by one: where another machine takes some, none is sampled in their place.
        while study.get_trials(states=(TrialState.WAITING,)):
            study.optimize(objective, n_trials=1)
    else:
        study.optimize(objective, n_trials=options.trials)
    print(table(study))
    return 0


if __name__ == "__main__":
    sys.exit(main())
