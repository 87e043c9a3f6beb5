"""A run as one page: everything that `facts` found, and what is missing and why."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kws import operating_points
from kws import recipe as recipes
from kws.bundle import Bundle, write_atomic
from kws.data import sheet
from kws.deploy import energy
from kws.graph import cost as counting
from kws.graph.cost import PURPOSES
from kws.intervals import wilson_interval
from kws.report import operating, shell
from kws.report import sweep as sweeps
from kws.report import tape as on_tapes
from kws.report.facts import NO_WORDS, Facts, Heard, OnBoard
from kws.report.shell import Section, command, term, text

TRAINING = Path(__file__).with_name("training.html")
MOST_CLIPS = 100
WHERE = {"weights": "flash", "activations": "RAM", "state": "RAM", "scratch": "RAM"}


def write(facts: Facts, out: Path, clips: int) -> Path:
    """Write the page of a run.

    Args:
        facts: From `facts.gather`.
        out: The file.
        clips: Recordings of the hardest clips to put in, at most MOST_CLIPS.
    """
    write_atomic(out, page(facts, clips).encode())
    return out


def path_of(bundle: Bundle) -> Path:
    """Where a run's page goes, if nobody says."""
    shipped = Path("build") / bundle.path.name
    return (shipped if bundle.shipped else bundle.path) / "report.html"


def page(facts: Facts, clips: int = 0) -> str:
    """The page: HTML that needs no other file."""
    sections = [
        Section("training", "Training", _training(facts)),
        Section("words", "Words", _words(facts)),
        Section("hardest", "The hardest clips", _hardest(facts, clips)),
        _operating(facts),
        Section("tapes", "Tapes", _tapes(facts, clips)),
        Section("cost", "Cost by layer", _cost(facts)),
        Section("boards", "Boards", _boards(facts)),
        _sweep(facts),
        Section("recipe", "Recipe", _recipe(facts)),
    ]
    return shell.page(facts.bundle.recipe.name, _intro(facts), sections)


def _intro(facts: Facts) -> str:
    """What matters most, in a few figures."""
    bundle, figures = facts.bundle, []
    words = _own_words(bundle)
    if facts.heard is not None:
        found = facts.heard.evaluation
        low, high = (100 * share for share in found.ci95)
        figures.append(
            (
                f"{100 * found.accuracy:.2f} %",
                f"{term('accuracy', 'right')} of {found.n:,} clips, {found.split} "
                f"split; {term('interval', '95 %')}: {low:.1f} to {high:.1f}",
            )
        )
    after = facts.point
    if {"miss_rate", "false_alarms_per_hour", "hours"} <= set(after):
        figures.append(
            (
                f"{100 * after['miss_rate']:.1f} %",
                f"of the words {term('missed', 'missed')} at "
                f"{after['false_alarms_per_hour']:.1f} "
                f"{term('alarms', 'false alarms')} an hour, on {after['hours']:.2f} h "
                "of tapes that the thresholds were chosen on",
            )
        )
    if facts.cost is not None:
        unit, cost = facts.cost.unit, facts.cost.cost
        shown = f"{cost / 1e6:.2f} M" if unit != "ns" else f"{cost / 1e6:.2f} ms"
        name = term("instructions", unit) if unit == "instructions" else "of time"
        told = f"{name} a decision, {text(facts.cost.board)}"
        if facts.cost.pace is not None:
            second = facts.cost.pace.instructions_per_second
            told += f"; {second / 1e6:.1f} M a second of sound, features included"
        figures.append((shown, told))
        figures.append(
            (
                f"{facts.cost.weights_bytes / 1000:.1f} KB",
                f"of weights, and {facts.cost.arena_bytes / 1000:.1f} KB of working "
                "memory",
            )
        )
    fits = [where for where in facts.on_boards if where.fit is not None]
    if fits:
        good = [w for w in fits if w.fit is not None and w.fit.fits]
        figures.append((f"{len(good)} of {len(fits)}", "boards can hold it"))
    items = "".join(
        f"<li><b>{big}</b><span>{small}</span></li>" for big, small in figures
    )
    code = "" if not bundle.model_path.is_file() else f", hash {bundle.hash[:16]}"
    return (
        f'<p class="lead soft">{text(bundle.recipe.task.name)}: {len(words)} words '
        f"({text(', '.join(words))}){code}</p>"
        f'<ul class="figures">{items}</ul>'
    )


def _missing(facts: Facts, part: str) -> str:
    """Why a part is not there, and what makes it."""
    reason = facts.missing.get(part, "Not known.")
    message, _, hint = reason.partition("\nHint: ")
    line, _, remark = hint.partition("   (")
    way = f"<p><code>{text(hint)}</code></p>"
    if shell.is_command(line, "kws"):
        way = shell.copied(line) + (f"<p>({text(remark)}</p>" if remark else "")
    return f'<div class="missing"><p>{text(message)}</p>{way}</div>'


def _training(facts: Facts) -> str:
    bundle, told = facts.bundle, facts.trained
    steps = [
        (key, name)
        for key, name in (
            ("val_accuracy_float", "float"),
            ("val_accuracy_ptq", "int8, as it is"),
            ("val_accuracy_qat", "int8, tuned"),
        )
        if key in told
    ]
    parts = []
    if facts.curves:
        rows = facts.curves
        phases: list[dict[str, Any]] = []
        for i, row in enumerate(rows):
            if not phases or phases[-1]["phase"] != row["phase"]:
                name = "int8" if row["phase"] == "qat" else row["phase"]
                phases.append({"phase": row["phase"], "name": name, "first": i})
        columns = ("train_loss", "val_loss", "val_accuracy")
        data = {key: [row.get(key) for row in rows] for key in columns}
        best = max(row["val_accuracy"] for row in rows if "val_accuracy" in row)
        values = {
            "validation": term("validation", "validation"),
            "loss": term("loss", "Loss"),
            "accuracy": f"Validation accuracy by epoch; the best is {100 * best:.2f} %",
            "losses": "Loss of training and validation by epoch",
            "data": shell.data(
                "training-data",
                {"epochs": [row.get("epoch") for row in rows], "phases": phases} | data,
            ),
        }
        parts.append(shell.fill(TRAINING.read_text(encoding="utf-8"), values))
    else:
        parts.append(_missing(facts, "curves"))
    if steps:
        parts.append(
            shell.table(
                ("network", f"right of {int(told.get('validation_clips', 0)):,} clips"),
                [(name, f"{100 * told[key]:.2f} %") for key, name in steps],
                "Accuracy of each form of the network",
            )
        )
        parts.append(
            f'<p class="soft">{int(told.get("training_clips", 0)):,} training clips, '
            f"{int(told.get('parameters', 0)):,} parameters. Tuned: "
            f"with {term('qat', 'the rounding to int8')} in the loop.</p>"
        )
    logs = str(bundle.path / "tensorboard")
    if Path(logs).is_dir():
        parts.append(
            '<p class="soft">The same curves in TensorBoard (pip install tensorboard): '
            f"<code>{text(shlex.join(['tensorboard', '--logdir', logs]))}</code></p>"
        )
    return "".join(parts)


def _words(facts: Facts) -> str:
    heard = facts.heard
    if heard is None:
        return _missing(facts, "heard")
    found = heard.evaluation
    counts = found.confusion.sum(axis=1)
    shares = [
        (label, int(found.confusion[i, i]), int(counts[i]))
        for i, label in enumerate(found.labels)
        if counts[i]
    ]
    loud = [
        (_span(row["low_db"], row["high_db"]), row["right"], row["n"])
        for row in heard.by_loudness()
    ]
    note = (
        "Validation clips: by them the best epoch was chosen, so this flatters a "
        "little."
        if found.split == "val"
        else f"Clips of the split {found.split}."
    )
    return (
        f'<p class="soft">{found.n:,} clips of {text(found.task)}, through the board\'s'
        f" own C on this machine. {note} A dot is the share, the line its "
        f"{term('interval', '95 % interval')}.</p>"
        '<div class="halves"><div>'
        f"<h3>{term('recall', 'Recall')} by word</h3>{_ranges(shares)}</div>"
        f"<div><h3>Words by {term('loudness', 'loudness')}</h3>{_ranges(loud)}</div>"
        f"</div>{_speakers(facts)}"
        f"<h3>{term('confusion', 'Confusion')}</h3>{_confusion(heard)}"
    )


def _speakers(facts: Facts) -> str:
    """How accuracy varies from person to person, and who is heard worst."""
    assert facts.heard is not None
    found = facts.heard.evaluation.speakers
    if found is None:
        return ""
    told = "too few to tell how accuracy varies from one to another"
    if found.ci95 is not None:
        low, high = (100 * share for share in found.ci95)
        told = f"as they vary, {term('speakers', '95 %')}: {low:.1f} to {high:.1f} %"
    worst = [(name, count - wrong, count) for name, wrong, count in found.hardest]
    shown = f"<h4>Heard worst</h4>{_ranges(worst)}" if worst else ""
    return (
        f'<h3>Speakers</h3><p class="soft">{found.speakers:,} speakers of '
        f"{found.clips:,} clips; {told}.</p>{shown}"
    )


def _span(low: int | None, high: int | None) -> str:
    if low is None:
        return "all" if high is None else f"below {high} dB"
    return f"{low} dB and more" if high is None else f"{low} to {high} dB"


def _name(label: str) -> str:
    """A label for people."""
    return f"<em>{text(label.strip('_'))}</em>" if label in NO_WORDS else text(label)


def _own_words(bundle: Bundle) -> list[str]:
    return [label for label in bundle.labels if label not in NO_WORDS]


def _ranges(rows: Sequence[tuple[str, int, int]]) -> str:
    """Shares with their intervals on one scale: (name, how many, of how many)."""
    if not rows:
        return '<p class="soft">No clips.</p>'
    made = [(name, k / n, *wilson_interval(k, n), k, n) for name, k, n in rows]
    lowest = min(low for _, _, low, *_ in made)
    floor = max((edge for edge in (0.0, 0.4, 0.6, 0.8) if edge <= lowest), default=0.0)
    items = []
    for name, share, low, high, right, count in made:
        at, left, right_ = (
            f"{100 * (value - floor) / (1 - floor):.1f}%"
            for value in (share, low, high)
        )
        items.append(
            f'<li><span class="name">{_name(name)}</span><span class="range" '
            f'style="--at:{at};--low:{left};--high:{right_}"><i></i><b></b></span>'
            f'<span title="{right} of {count}">{100 * share:.1f} % '
            f'<span class="soft">of {count:,}</span></span></li>'
        )
    scale = (
        '<li aria-hidden="true"><span></span><span class="scale soft">'
        f"<span>{100 * floor:.0f} %</span><span>{50 * (1 + floor):.0f} %</span>"
        "<span>100 %</span></span><span></span></li>"
    )
    return f'<ul class="rows">{scale}{"".join(items)}</ul>'


def _confusion(heard: Heard) -> str:
    found = heard.evaluation
    head = "".join(
        f'<th scope="col"><span>{_name(label)}</span></th>' for label in found.labels
    )
    body = []
    for i, label in enumerate(found.labels):
        total = max(1, int(found.confusion[i].sum()))
        cells = []
        for j, n in enumerate(found.confusion[i]):
            if not n:
                cells.append("<td></td>")
                continue
            share = n / total
            # Never so dark that the number in it can't be read.
            heat = 0.1 + 0.35 * share if i == j else min(0.45, 0.12 + 2 * share)
            cells.append(
                f'<td class="{"right" if i == j else "wrong"}" '
                f'style="--heat-of:{heat:.2f}">{int(n)}</td>'
            )
        body.append(f'<tr><th scope="row">{_name(label)}</th>{"".join(cells)}</tr>')
    return (
        shell.wide(
            f'<table class="confusion"><thead><tr><th></th>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table>",
            "Confusion",
        )
        + '<p class="soft">Rows: said. Columns: heard. In clips.</p>'
    )


def _hardest(facts: Facts, most: int) -> str:
    heard = facts.heard
    if heard is None:
        return _missing(facts, "heard")
    wrong = int((heard.heard != heard.clips.label).sum())
    chosen = heard.hardest(min(most, MOST_CLIPS))
    if not wrong:
        return "<p>None: every clip was heard as what it says.</p>"
    if not chosen:
        return (
            f"<p>{wrong:,} clips were heard as something else. They are not in this "
            f"page: --clips says how many.</p>{command('kws', 'report', facts.run)}"
        )
    labels = heard.evaluation.labels
    items = []
    for i in chosen:
        pcm, truth, said = heard.clips.pcm[i], heard.clips.label[i], heard.heard[i]
        scores = heard.posteriors[i]
        items.append(
            f'<li><b>{_name(labels[truth])}</b> <span class="heard">heard as '
            f"{_name(labels[said])}</span>"
            f'<svg viewBox="0 0 {sheet.COLUMNS} {sheet.HEIGHT}" '
            'preserveAspectRatio="none" aria-hidden="true">'
            f'<path d="{sheet.wave(pcm)}"/></svg>'
            f'<audio controls preload="none" src="{shell.sound(pcm)}" '
            f'aria-label="{text(heard.clips.names[i])}"></audio>'
            f'<span class="soft">{term("posterior", "posterior")} {scores[said]:.2f} '
            f"against {scores[truth]:.2f}</span>"
            f'<span class="file">{text(heard.clips.names[i])}</span></li>'
        )
    return (
        f'<p class="soft">{wrong:,} of {len(heard.clips):,} clips were heard as '
        f"something else; these {len(chosen)} most surely. Listen: some say something "
        "else than their folder, or are cut. Their sound is in this page, so it is as "
        f'private as they are.</p><ul class="clips">{"".join(items)}</ul>'
    )


def _operating(facts: Facts) -> Section:
    title = "Misses against false alarms"
    if facts.operating is not None:
        return Section("operating", title, operating.body(facts.operating))
    if (facts.bundle.path / operating_points.FILE).exists():
        return Section("operating", title, _missing(facts, "operating"))
    bundle, run = facts.bundle, _own(facts)
    tape: list[object] = ["kws", "data", "tape", "--out", "tapes/words.wav"]
    if bundle.recipe.task.name == "custom":
        tape += ["--words", ",".join(_own_words(bundle))]
    else:
        tape += ["--task", bundle.recipe.task.name]
    kept = facts.sources
    tape += [] if kept.data is None else ["--data", kept.data]
    for folder in kept.also:
        tape += ["--also", folder]
    if bundle.recipe.task.clip_seconds != 1:
        tape += ["--clip-seconds", f"{bundle.recipe.task.clip_seconds:g}"]
    body = (
        f"<p>Not measured: how many words it {term('missed', 'misses')}, and how often "
        f"it hears one where none was said. It takes {term('tape', 'tapes')}: an hour "
        "of your clips in their noise, say, or recordings of the room.</p>"
        f"{_copy_first(facts)}{command(*tape)}"
        f"{command('kws', 'calibrate', run, '--tape', 'tapes/words.wav')}"
    )
    return Section("operating", title, f'<div class="missing">{body}</div>')


def _tapes(facts: Facts, clips: int) -> str:
    if facts.tapes is not None:
        return on_tapes.body(facts.tapes, clips > 0)
    if "tapes" in facts.missing:
        return _missing(facts, "tapes")
    return (
        f'<div class="missing"><p>No {term("tape", "tape")} was heard: which sound '
        "costs how much, and what is heard in it, is not known.</p>"
        f"{command('kws', 'report', facts.run, '--tape', 'tapes/words.wav')}</div>"
    )


def _own(facts: Facts) -> str:
    """The run that may be written into: a shipped one's copy."""
    return f"runs/{facts.bundle.path.name}" if facts.bundle.shipped else facts.run


def _copy_first(facts: Facts) -> str:
    if not facts.bundle.shipped:
        return ""
    words = ["cp", "-r", str(facts.bundle.path), _own(facts)]
    return shell.copied(f"mkdir -p runs && {shlex.join(words)}")


def _sweep(facts: Facts) -> Section:
    if facts.sweep is not None:
        return Section("sweep", "Delta thresholds", sweeps.body(facts.sweep))
    if (sweeps.folder_of(facts.bundle) / "sweep.json").exists():
        return Section("sweep", "Delta thresholds", _missing(facts, "sweep"))
    body = (
        f"<p>No sweep was made: what a {term('delta', 'delta threshold')} costs and "
        f"gives is not known.</p>{command('kws', 'sweep', facts.run)}"
    )
    return Section("sweep", "Delta thresholds", f'<div class="missing">{body}</div>')


def _cost(facts: Facts) -> str:
    profile = facts.cost
    if profile is None:
        return _missing(facts, "cost")
    layers = [layer.total for layer in profile.layers]
    most = max(1, *(part.cost or 0 for part in layers))
    split = max(1, sum(part.cost or 0 for part in layers))
    touched = [sum(part.bytes(purpose) for purpose in PURPOSES) for part in layers]
    widest = max(1, *touched)
    spent = "".join(
        f'<li><span class="name">{text(part.name)}</span><span class="bar">'
        f'<i style="width:{100 * (part.cost or 0) / most:.2f}%"></i></span>'
        f"<span>{100 * (part.cost or 0) / split:.1f} %</span></li>"
        for part in layers
    )
    moved = "".join(
        f'<li><span class="name">{text(part.name)}</span><span class="bar">'
        + "".join(
            f'<i class="{purpose}" style="width:'
            f'{100 * part.bytes(purpose) / widest:.2f}%" '
            f'title="{purpose}: {part.bytes(purpose):,}"></i>'
            for purpose in PURPOSES
        )
        + f"</span><span>{_bytes(total)}</span></li>"
        for part, total in zip(layers, touched, strict=True)
    )
    used = [p for p in PURPOSES if any(part.bytes(p) for part in layers)]
    keys = "".join(
        f'<span><i style="background:var(--{purpose})"></i>{purpose} ({WHERE[purpose]})'
        "</span>"
        for purpose in used
    )
    unit = "time" if profile.unit == "ns" else profile.unit
    rows = [
        (
            text(part.name),
            "" if part.cost is None else f"{part.cost:,}",
            f"{counting.whole(part.dense.macs):,}",
            f"{counting.whole(part.executed.macs):,}",
            *(f"{part.bytes(purpose):,}" for purpose in used),
        )
        for part in (*layers, profile.total)
    ]
    head = (
        "layer",
        text(profile.unit),
        f"{term('macs', 'MACs')}, dense",
        "executed",
        *(f"{purpose}, bytes" for purpose in used),
    )
    named = term("instructions", "Instructions")
    return (
        f'<p class="soft">One decision: {profile.cost:,} {text(profile.unit)} on '
        f"{text(profile.board)}, {text(profile.audio)}; {text(profile.time_note)}: "
        f"{profile.time_ms:.1f} ms.</p>"
        '<div class="halves"><div>'
        f"<h3>{named if unit == 'instructions' else text(unit.capitalize())} by layer"
        f'</h3><ul class="rows">{spent}</ul></div>'
        f"<div><h3>{term('touched', 'Bytes touched')} by memory and purpose</h3>"
        f'<div class="keys soft">{keys}</div><ul class="rows">{moved}</ul></div></div>'
        "<details><summary>In figures</summary>"
        f"{shell.table(head, rows, 'Cost by layer')}</details>"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def _boards(facts: Facts) -> str:
    if not facts.on_boards and "cost" in facts.missing:
        return _missing(facts, "cost")
    if not facts.on_boards:
        again = command("kws", "report", facts.run)
        return f'<div class="missing"><p>Built for none: --fit none.</p>{again}</div>'
    cards = "".join(_board(facts, where) for where in facts.on_boards)
    return (
        '<p class="soft">The whole firmware, built for each board. '
        f"{term('duty', 'Duty cycle')}: counted in an emulator of the same core, on "
        "the self-test's sound; cycles per instruction are an assumption. A battery of "
        f"{facts.asked.battery_mah:g} mAh at the board's own voltage (kws report "
        f'--battery).</p><ul class="boards">{cards}</ul>'
    )


def _board(facts: Facts, where: OnBoard) -> str:
    board, parts = where.board, []
    size = where.fit
    if size is not None:
        parts.append(_meter("Flash", size.flash_bytes, board.flash_bytes))
        parts.append(_meter("RAM", size.ram_bytes, board.ram_bytes))
    busy = None
    if where.pace is not None:
        busy = where.pace.busy
        over = " over" if busy > 1 else ""
        parts.append(
            f'<div class="meter"><div><span>Awake</span><span>{100 * busy:.1f} % of '
            f'the time</span></div><div class="bar"><i class="{over.strip()}" '
            f'style="width:{min(100, 100 * busy):.1f}%"></i></div></div>'
        )
        parts.append(f'<p class="soft">{_battery(facts, where)}</p>')
    least = where.pace.least_hop if where.pace is not None else None
    words: list[object] = ["kws", "flash", facts.run, "--board", board.name]
    if size is None or not size.fits:
        verdict, good = "Does not fit" if size is not None else "Not built", False
    elif where.pace is not None and not where.pace.keeps_up:
        verdict, good = "Fits, and is too slow", False
        if least is not None:
            verdict += f" at this hop; every {least} frames it keeps up"
            words += ["--hop", least]
    else:
        verdict, good = "Fits" + (", and keeps up" if busy is not None else ""), True
    if where.why:
        parts.append(f'<p class="soft">{text(where.why)}</p>')
    if size is not None and size.fits and (good or least is not None):
        parts.append(command(*words))
    return (
        f'<li><h3>{text(board.name)}</h3><p class="soft">{text(board.title)}; '
        f"{text(board.part)}, {board.clock_hz / 1e6:g} MHz</p>"
        f'<p class="verdict {"yes" if good else "no"}">{verdict}</p>'
        f"{''.join(parts)}</li>"
    )


def _meter(name: str, used: int, limit: int) -> str:
    share = used / limit
    over = " over" if share > 1 else ""
    return (
        f'<div class="meter"><div><span>{name}</span><span>{used / 1024:,.0f} of '
        f"{limit / 1024:,.0f} KB, {100 * share:.0f} %</span></div>"
        f'<div class="bar"><i class="{over.strip()}" '
        f'style="width:{min(100.0, 100 * share):.1f}%"></i></div></div>'
    )


def _battery(facts: Facts, where: OnBoard) -> str:
    assert where.pace is not None
    budget = energy.Budget(where.pace, facts.asked.battery_mah)
    if budget.days is not None:
        return f"Battery: {budget.days:,.1f} days, its own losses left out"
    if budget.most_days is not None:
        return (
            f"Battery: at most {budget.most_days:,.1f} days, by the core's work alone"
        )
    if where.pace.busy > 1:
        return "Battery: not said, the board can't keep up"
    return "Battery: not said, nobody publishes this board's power"


def _recipe(facts: Facts) -> str:
    made = recipes.to_toml(facts.bundle.recipe)
    again = "docs/recipe.md says what each key means."
    return (
        f'<p class="soft">Every setting of this run. {again}</p><details><summary>'
        f"recipe.toml</summary><pre>{text(made)}</pre></details>"
    )
