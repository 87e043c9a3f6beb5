"""Options that several verbs share: one name, one type, one help each.

Where a verb differs in whether an option is required, or in its default, the option is
a function of that. Old names of an option go on working, and are not shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kws.errors import KwsError

PACKAGE = Path(__file__).parents[1]
PATH = click.Path(path_type=Path)
MOST_OFFERED = 100
STOPPED = 130  # a shell's exit code of what Ctrl-C ended
Command = Callable[..., None]
Decorator = Callable[[Command], Command]


class Option(click.Option):
    """An option that has old names."""

    def __init__(self, *names: Any, old: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.old = tuple(old)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        shown = self.opts
        self.opts = [*shown, *self.old]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


class Number(click.FloatRange):
    """A number within bounds: `nan` and `inf` are none."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a number, not {value!r}", param, ctx)
        return number


class Range(click.ParamType):
    """LOW,HIGH as two numbers in order, of `least` at least and `most` at most."""

    name = "low,high"

    def __init__(self, least: float = -1000.0, most: float = 1000.0) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        if not isinstance(value, str):
            return tuple(value)  # a default
        try:
            low, high = (float(part) for part in value.split(","))
        except ValueError:
            low, high = 1.0, 0.0
        if not self.least <= low <= high <= self.most:
            bounds = f"{self.least:g} to {self.most:g}"
            self.fail(f"expected LOW,HIGH within {bounds}, not {value!r}", param, ctx)
        return low, high


class NameList(click.ParamType):
    """Names with commas between, as a tuple."""

    name = "name,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if not isinstance(value, str):
            return tuple(value)
        found = tuple(part.strip() for part in value.split(",") if part.strip())
        if not found:
            self.fail(f"expected names with commas between, not {value!r}", param, ctx)
        return found


NAMES = NameList()


# What a shell offers at the tab key (README.md): folders are listed, nothing heavy is
# imported, and nothing is said where there is nothing.
def _boards(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from kws.paths import FIRMWARE

    names = sorted(path.parent.name for path in FIRMWARE.glob("boards/*/board.toml"))
    before, comma, last = incomplete.rpartition(",")  # --fit takes several
    return [before + comma + name for name in names if name.startswith(last)]


def _presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    names = sorted(path.stem for path in (PACKAGE / "recipes").glob("*.toml"))
    return [name for name in names if name.startswith(incomplete)]


def _runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shipped runs, and folders of runs up to two levels below what is typed."""
    names = [path.parent.name for path in PACKAGE.glob("pretrained/*/bundle.json")]
    found = sorted(name for name in names if name.startswith(incomplete))
    head, _, tail = incomplete.rpartition("/")
    top = Path(f"{head}/" if head or incomplete.startswith("/") else ".")
    with contextlib.suppress(OSError):
        here = [path for path in sorted(top.iterdir()) if path.name.startswith(tail)]
        for path in itertools.islice(here, MOST_OFFERED):
            for manifest in ("bundle.json", "*/bundle.json"):
                found += [str(run.parent) for run in sorted(path.glob(manifest))]
    return found[:MOST_OFFERED]


class BoardName(click.ParamType):
    """A board's name; where it is missing, the names are told."""

    name = "text"

    def get_missing_message(self, param: click.Parameter, ctx: Any) -> str:
        return f"Expected one of {', '.join(_boards(ctx, param, ''))}"


bundle = click.argument("run", shell_complete=_runs)
bundles = click.argument(
    "runs", nargs=-1, required=True, metavar="RUN RUN...", shell_complete=_runs
)
preset = click.option(
    "--preset", shell_complete=_presets, help="A shipped recipe (default: kwt-tiny)."
)


# What comes out, and where.
json = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: one object, or one a line where a verb goes on and on.",
)


def out(what: str, **settings: Any) -> Decorator:
    """`--out`: what is written there, and `required` or `default`."""
    return click.option("--out", type=PATH, help=what, **settings)


def given(ctx: click.Context, without: Sequence[str] = ()) -> list[str]:
    """The options that were typed, for a command that is to be typed again."""
    typed = []
    for param in ctx.command.params:
        if {*param.opts, *param.secondary_opts} & {*without}:
            continue
        source = ctx.get_parameter_source(str(param.name))
        if isinstance(param, click.Option) and source is ParameterSource.COMMANDLINE:
            value = ctx.params[str(param.name)]
            for each in value if param.multiple else (value,):
                typed.append(_name(param, each))
                if not param.is_flag:
                    parts = each if isinstance(each, tuple) else (each,)
                    typed.append(",".join(map(str, parts)) or "none")  # as of --fit
    return typed


def typed(ctx: click.Context, *options: str) -> str:
    """Of these options those that were typed, for a hint's command that takes them too.

    Args:
        ctx: Of the command.
        options: By their first names.
    """
    every = {param.opts[0] for param in ctx.command.params}
    return shlex.join(given(ctx, sorted(every - {*options})))


def _name(option: click.Option, value: Any) -> str:
    """As it is typed for a value: --no-pace."""
    off = option.is_flag and option.secondary_opts and not value
    return str((option.secondary_opts if off else option.opts)[0])


def _is_default(ctx: click.Context, option: click.Option) -> bool:
    default = option.process_value(ctx, option.get_default(ctx))
    return bool(ctx.params[str(option.name)] == default)


def arguments(ctx: click.Context) -> list[str]:
    """What was typed besides options: RUN, say."""
    values = [
        ctx.params.get(str(param.name))
        for param in ctx.command.params
        if isinstance(param, click.Argument)
    ]
    parts = [value if isinstance(value, tuple) else (value,) for value in values]
    return [str(each) for part in parts for each in part if each is not None]


def heed(ctx: click.Context, options: Sequence[str], why: str) -> None:
    """Refuse options that were typed and would change nothing, before any work.

    One that only says the default is let pass: what it asks for is what there is.

    Args:
        ctx: Of the command.
        options: Those that do nothing, by their first names.
        why: Why they don't here: a sentence.

    Raises:
        KwsError: some were typed; the hint is the same command without them.
    """
    unheeded = [
        _name(param, ctx.params[str(param.name)])
        for param in ctx.command.params
        if isinstance(param, click.Option)
        and param.opts[0] in options
        and ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
        and not _is_default(ctx, param)
    ]
    if not unheeded:
        return
    verb = ["kws", *ctx.command_path.split()[1:]]
    none = "no" if len(options) == 1 else "none of"
    raise KwsError(
        f"{why} Expected {none} {', '.join(options)} here. "
        f"Received: {', '.join(unheeded)}",
        shlex.join([*verb, *arguments(ctx), *given(ctx, options)]),
    )


# Clips and recordings.
data = click.option(
    "--data",
    type=PATH,
    help="Folder or .tar.gz of clips; a training takes those of FOLDER:8 eight times.  "
    "[default: those RUN was trained on, else KWS_DATA, else the usual places "
    "(docs/data.md)]",
)
also = click.option(
    "--also",
    type=PATH,
    multiple=True,
    help="Another folder of clips, or FOLDER:8, from `kws data synth` say; may be "
    "repeated.",
)
ambient = click.option(
    "--ambient",
    type=PATH,
    multiple=True,
    help="Folder of sound that holds none of the words (docs/training.md); may be "
    "repeated.",
)
limit = click.option(
    "--limit",
    type=click.IntRange(1),
    help="The first N clips of a fixed shuffle of each split.",
)
audio = click.option(
    "--audio",
    type=PATH,
    cls=Option,
    old=("--file",),
    help="Recording to hear instead of a microphone, of any format and rate.",
)
seconds = click.option(
    "--seconds", type=Number(0.1), help="Stop after SECONDS of audio."
)


speaker = click.option(
    "--speaker",
    help="Who speaks in all recordings: it stands in the names of the clips.  "
    "[default: told by files and folders, or asked]",
)


def clip_seconds(**settings: Any) -> Decorator:
    """`--clip-seconds`, with `default` where nothing else says it."""
    return click.option(
        "--clip-seconds",
        type=Number(1.0, 3.0),
        help="Length of a clip: more than 1 for words that take longer.",
        **settings,
    )


def tape(**settings: Any) -> Decorator:
    """`--tape`, `required` or not."""
    return click.option(
        "--tape",
        type=PATH,
        multiple=True,
        help="Long recording (WAV, FLAC, MP3 and more) with its truth beside it, or a "
        "folder of them; may be repeated.",
        **settings,
    )


def split(*choices: str, default: str) -> Decorator:
    """`--split`, of those that a verb takes."""
    return click.option(
        "--split",
        type=click.Choice(choices),
        default=default,
        show_default=True,
        help="Which clips: of training, validation or test.",
    )


def words(**settings: Any) -> Decorator:
    """`--words`, `required` or not."""
    return click.option(
        "--words",
        type=NAMES,
        help="Your own words, with commas between: 'yes,no,hey robot'.",
        **settings,
    )


task = click.option(
    "--task",
    help="Whose clips: gsc10, gsc12, gsc35 or custom.  [default: the recipe's]",
)

# A run that is made.
teacher = click.option(
    "--teacher",
    type=PATH,
    multiple=True,
    help="A .tflite or a run to distil from; of several, the mean. kws tune also takes "
    "self: RUN, as it is without thresholds.",
)
clean_teacher = click.option(
    "--clean-teacher",
    type=PATH,
    multiple=True,
    help="As --teacher, but it hears each recording as it is, not its noisy copies.",
)
teacher_labels = click.option(
    "--teacher-labels",
    type=NAMES,
    default=(),
    help="Names of a .tflite teacher's logits, in order.",
)
pool = click.option(
    "--pool",
    type=PATH,
    help="Keep augmented clips here, for the next run on the same ones.",
)


def qat_epochs(*old: str) -> Decorator:
    """`--qat-epochs`, and what a verb once called it."""
    return click.option(
        "--qat-epochs",
        type=click.IntRange(0),
        cls=Option,
        old=old,
        help="Epochs of quantization-aware tuning; 0: calibration alone (PTQ).",
    )


distribute = click.option(
    "--distribute",
    type=click.Choice(["none", "mirrored", "multiworker"]),
    default="none",
    show_default=True,
    help="Over several GPUs, or machines (docs/training.md).",
)
false_alarms = click.option(
    "--false-alarms",
    type=Number(0.0),
    help="The most an hour, over all tapes together.  [default: 0.5]",
)
restart = click.option("--restart", is_flag=True, help="Forget what --out holds.")
no_convert = click.option(
    "--no-convert", is_flag=True, help="Stop before model.tflite."
)


def seed(default: int | None = None) -> Decorator:
    """`--seed`; None: the recipe's."""
    return click.option(
        "--seed",
        type=click.IntRange(0),
        default=default,
        show_default=default is not None,
        help="Seed of everything that is drawn.",
    )


def run(command: Command) -> Command:
    """All options of kws.train.RunOptions; the command gets them as `options`."""

    @functools.wraps(command)
    def collected(**given: Any) -> None:
        from kws.train import RunOptions

        teachers = (*given["teacher"], *given["clean_teacher"])
        if not any(one.suffix == ".tflite" or one.is_file() for one in teachers):
            why = "Only a .tflite teacher's logits need names; a run knows its own."
            heed(click.get_current_context(), ["--teacher-labels"], why)
        own = {field.name for field in dataclasses.fields(RunOptions)} - {"convert"}
        options = RunOptions(
            convert=not given.pop("no_convert"),
            **{name: given.pop(name) for name in own},
        )
        try:
            command(options=options, **given)
        except KeyboardInterrupt:
            without = " without --restart" if options.restart else ""
            click.echo(
                f"\nStopped. The same command{without} goes on where it was.", err=True
            )
            raise click.exceptions.Exit(STOPPED) from None

    shared: tuple[Decorator, ...] = (
        data,
        also,
        ambient,
        teacher,
        clean_teacher,
        teacher_labels,
        pool,
        tape(),
        false_alarms,
        distribute,
        limit,
        restart,
        no_convert,
    )
    command_with: Command = collected
    for option in reversed(shared):
        command_with = option(command_with)
    return command_with


# Pages that are served.
http_port = click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    cls=Option,
    old=("--port",),  # a serial port elsewhere
    default=0,
    help="Port of this machine that the page is at.  [default: a free one]",
)
no_browser = click.option(
    "--no-browser", is_flag=True, help="Print the address, and open nothing."
)


# Boards.
def board(**settings: Any) -> Decorator:
    """`--board`, `required` or with a `default`."""
    return click.option(
        "--board",
        "board_name",
        type=BoardName(),
        shell_complete=_boards,
        help="A name from `kws boards`.",
        **settings,
    )


fit = click.option(
    "--fit",
    type=NAMES,
    shell_complete=_boards,
    callback=lambda ctx, option, names: () if names == ("none",) else names,
    help="Boards to build for, with commas between, or none.  [default: all]",
)
battery = click.option(
    "--battery",
    type=Number(min=1, max=1_000_000),
    metavar="mAh",
    help="A cell, for how long it lasts.",
)
probe = click.option("--probe", help="Id of the debug probe, or a part of it.")
port = click.option("--port", help="Serial port, where several could be the board's.")
compiler = click.option(
    "--compiler", help="gcc or zig [default: what is installed, gcc first]."
)
hop = click.option(
    "--hop",
    type=click.IntRange(1),
    help="Run the model every HOP feature frames.  [default: RUN's]",
)
keep = click.option(
    "--keep",
    is_flag=True,
    help="Write what was chosen here (--hop, --theta) into RUN, for good.",
)
engine = click.option(
    "--engine",
    type=click.Choice(["native", "tflm"]),
    default="native",
    show_default=True,
    help="What runs the network: native, its own C; tflm, TensorFlow Lite Micro "
    "(docs/tflm-engine.md).",
)
step = click.option(
    "--step",
    "stream",
    is_flag=True,
    help="With --engine tflm, of a causal network: a step of a stream instead of the "
    "whole clip, dense.",
)

# Simulation.
simulator = click.option(
    "--engine",
    type=click.Choice(["int8", "float"]),
    help="The int8 network, bit for bit, or the float one.  [default: int8 where the "
    "run has been converted]",
)
features = click.option(
    "--features",
    "kind",
    type=click.Choice(["board", "float"]),
    default="board",
    show_default=True,
    help="int8 features as the board computes them, or unquantized ones.",
)
theta = click.option(
    "--theta",
    help="Delta thresholds: KIND=NUMBER for all layers, LAYER.KIND=NUMBER for one, "
    "with commas, in units of the tensor itself, such as X=0.3,Q=0.3; or @FILE, as kws "
    "sweep writes it; or bundle: RUN's own. Kinds: X inputs of Q, K and V; Q; K; P "
    "softmax outputs; O attention outputs; M the MLP's inputs; H its hidden layer; of "
    "a network for streams also F features, C and E in the stem, R the read-out. A "
    "kind that is left out runs dense.",
)
jobs = click.option(
    "--jobs", type=click.IntRange(1), help="Processes.  [default: one for each core]"
)
