"""Get, record, make, count and check audio: fetch, import, synth, mine and more."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kws.cli import Verbs, _options
from kws.errors import KwsError, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kws.data.ambient import Sound
    from kws.data.record import Session

# What is about clips that are laid on a tape.
OF_LAID_WORDS = (
    *("--data", "--also", "--clip-seconds", "--seed", "--keywords-per-minute"),
    *("--unknown-per-minute", "--snr-db", "--bed-dbfs", "--reverberation"),
)
OF_CORPUS = ("--clip-seconds", "--clips-per-word", "--unknown")  # not of --stream
SHIPPED = {"gsc10": "kwt-tiny", "gsc12": "kwt-small-gsc12"}  # to try a tape with
# How own recordings are trained with: measured with 20 a word (docs/results.md).
BEGINNING = "kwt-stream-tiny"
SHORTLY = ("--epochs", "12", "--qat-epochs", "2", "--variants", "4")
SPOKEN_CLIPS = 300  # of a word, by kws data synth
MOST_TIMES = 8
SPOKEN_RECIPE = "kwt-stream-spoken"  # recipe for words out of text


@click.group(cls=Verbs)
def command() -> None:
    """Get, record, make, count and check audio.

    Example: kws data synth --words "yes,no,hey robot" --out corpus
    """


@command.command()
@click.option("--version", default="v0.02", show_default=True, help="v0.01 or v0.02.")
@click.option("--part", type=click.Choice(["all", "clips", "test"]), default="all")
@click.option("--url", help="Another address of the one --part.")
@click.option(
    "--ambient",
    help="Instead: sound without the words, to train on and to measure with (a file "
    "ambient_NAME.toml in datasets/): demand, dipco, librispeech-dev-clean, "
    "librispeech-test-clean, musan.",
)
@click.option(
    "--archive",
    type=_options.PATH,
    multiple=True,
    help="An archive at hand; with --ambient as often as there are parts.",
)
@click.option("--sha256", help="Checksum to expect, where it is not the official file.")
@_options.out("Folder to make.")
@_options.json
@click.pass_context
def fetch(
    ctx: click.Context,
    version: str,
    part: str,
    url: str | None,
    ambient: str | None,
    archive: tuple[Path, ...],
    sha256: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Download Speech Commands, or ambient sound; check it, unpack it.

    Without --out it goes to the user's cache, where every verb finds Speech Commands.
    --part all fetches the clips and, into OUT/test_v0.02, the official test files.
    Interrupted, the same command goes on where it stopped.

    Example: kws data fetch --version v0.02 --out data/speech_commands

    Example: kws data fetch --ambient librispeech-dev-clean --out around/libri
    """
    from kws.cli._run import next_line
    from kws.data import download
    from kws.paths import user_cache

    if ambient is not None:
        of_words = ("--url", "--sha256", "--part", "--version")
        why = "--ambient has its parts, address and checksums in datasets/."
        _options.heed(ctx, of_words, why)
        _fetch_ambient(ambient, archive, out, as_json)
        return
    if len(archive) > 1:
        raise KwsError(
            f"Expected one --archive, of one --part. Received: {len(archive)}",
            "kws data fetch --archive speech_commands_v0.02.tar.gz",
        )
    at_hand = archive[0] if archive else None
    if at_hand is not None:
        _options.heed(ctx, ["--url"], "An --archive is at hand: nothing is downloaded.")
    if sha256 is not None:
        sha256 = sha256.strip().lower()
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise KwsError(
                f"--sha256 is 64 hex digits. Received: {sha256!r}",
                "sha256sum FILE   (prints a file's)",
            )
    out = out or user_cache() / f"speech_commands_{version}"
    if (url or at_hand or sha256) and part == "all":
        _options.heed(
            ctx, ["--part"], "--url, --archive and --sha256 are of one part, not all."
        )
        part = "clips"
    places = {"clips": out, "test": out / f"test_{version}"}
    wanted = ["clips", "test"] if part == "all" else [part]
    report: dict[str, Any] = {"version": version, "out": str(out), "parts": {}}
    beside = {"clips": (f"test_{version}",), "test": ()}
    sources = {}
    for name in wanted:
        source = download.source(version, name)
        if source is None and url is None and at_hand is None:
            if part == "all":
                continue
            raise KwsError(
                f"Speech Commands {version} has no part {name!r}. Received: --part "
                f"{name}",
                f"kws data fetch --version {version} --part clips",
            )
        if url or sha256 or source is None:
            # Another address is another file: the official checksum doesn't hold.
            address = url or (source.url if source else "")
            source = download.Source(address, sha256)
        if download.is_there(source, places[name]):
            click.echo(f"{name}: already in {places[name]}", err=True)
            continue
        download.check_free(places[name], out, beside[name])
        sources[name] = source
    for name, source in sources.items():
        origin = at_hand or source.url
        click.echo(f"{name}: {origin} -> {places[name]}", err=True)
        show = _BytesProgress()
        with download.fetching(out):
            report["parts"][name] = download.fetch(
                source, places[name], at_hand, show, beside[name]
            )
        show.end()
        if not report["parts"][name]["checked"]:
            digest = report["parts"][name]["sha256"]
            click.echo(f"No checksum to compare with. SHA-256 {digest}", err=True)
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo(f"Speech Commands {version} is in {out}")
        if part != "test":
            train = ("kws", "train", "--preset", "kwt-tiny", "--task", "gsc12")
            click.echo(next_line(*train, "--data", out, "--out", "runs/tiny"))


def _fetch_ambient(
    name: str, archives: tuple[Path, ...], out: Path | None, as_json: bool
) -> None:
    from kws.data import download
    from kws.paths import user_cache

    sound = download.ambient(name)
    out = out or user_cache() / f"ambient_{name}"
    click.echo(f"{sound.name}: {sound.page}", err=True)
    click.echo(f"Licence: {sound.licence}, {sound.licence_url}", err=True)
    show = _BytesProgress()
    with download.fetching(out):
        report = download.fetch_ambient(sound, out, archives, show)
    show.end()
    for part in report["parts"]:
        if not part["sha256"]:
            file = part["url"].rpartition("/")[2]
            click.echo(f"{file}: already in {out}", err=True)
    if as_json:
        click.echo(json.dumps({"ambient": name, "licence": sound.licence, **report}))
        return
    click.echo(f"{sound.name} is in {out}: {report['files']} files unpacked")
    click.echo(f"Train with it, or make tapes of it: --ambient {quoted(out)}")


@command.command()
@_options.words(required=True)
@_options.out("Folder to make.")
@_options.clip_seconds(default=1.0, show_default=True)
@click.option(
    "--clips-per-word",
    default=SPOKEN_CLIPS,
    show_default=True,
    help="Clips of each word, of all voices and splits: 10 to 20000.",
)
@click.option(
    "--unknown",
    type=click.IntRange(0),
    help="Clips of other words.  [default: 2 x clips-per-word]",
)
@_options.seed(default=1)
@click.option(
    "--language",
    default="en",
    show_default=True,
    help="A code that eSpeak NG knows, such as de, pt-br or cmn.",
)
@click.option(
    "--voices",
    type=_options.NAMES,
    help="Voice engines that speak, by turns: espeak, flite, kokoro, pico, piper "
    "[default: all that are installed].",
)
@click.option(
    "--kokoro-dir",
    type=_options.PATH,
    help="Folder with files of kokoro-onnx's releases, or with speakers for Kokoro "
    "(docs/data.md).",
)
@click.option(
    "--stream",
    type=_options.PATH,
    help="Instead of a corpus: the words in this order in one .wav, by voices that "
    "no training clip has; truth in a .tsv beside it.",
)
@_options.json
@click.pass_context
def synth(
    ctx: click.Context,
    words: tuple[str, ...],
    out: Path | None,
    clip_seconds: float,
    clips_per_word: int,
    unknown: int | None,
    seed: int,
    language: str,
    voices: tuple[str, ...] | None,
    kokoro_dir: Path | None,
    stream: Path | None,
    as_json: bool,
) -> None:
    """Make a corpus out of text: many voices, rooms, microphones and noises.

    The folder has the Speech Commands layout, with lists for validation and test.
    Equal options and engines give equal files; a corpus that is there is not made
    again. More engines are worth more than more clips (docs/data.md); all but eSpeak NG
    speak English alone. Other words, among them words that sound like yours and phrases
    with parts of them, become unknown ones.

    Example: kws data synth --words "yes,no,hey robot" --out corpus

    Example: kws data synth --words "licht,stopp" --language de --out corpus
    """
    from kws.cli._run import next_line
    from kws.data import synth as speech
    from kws.data import voices as engines
    from kws.progress import counting

    if (out is None) == (stream is None):
        raise KwsError(
            "Expected either --out (a corpus) or --stream (one recording). Received: "
            + ("neither" if out is None else "both"),
            'kws data synth --words "yes,no" --out corpus',
        )
    if stream is not None:
        engine = ("--voices", "--kokoro-dir")
        _options.heed(ctx, engine, "A stream is spoken by eSpeak NG.")
        why = "A stream says each word of --words once, and is cut into no clips."
        _options.heed(ctx, OF_CORPUS, why)
        _check_wav(stream, "--stream", "kws data synth")
        other = stream.with_stem(f"{stream.stem}-new")
        again = f"kws data synth ... --stream {quoted(other)}"
        windows = speech.write_stream(
            stream, list(words), seed, language=language, again=again
        )
        if as_json:
            rows = [vars(window) for window in windows]
            click.echo(json.dumps({"out": str(stream), "windows": rows}))
        for window in [] if as_json else windows:
            click.echo(f"{window.start_s:8.2f} {window.end_s:8.2f}  {window.word}")
        if not as_json:
            click.echo(
                f"Wrote {stream}, its truth beside it: {stream.with_suffix('.tsv')}"
            )
        return
    assert out is not None
    others = 2 * clips_per_word if unknown is None else unknown
    folders = {} if kokoro_dir is None else {"kokoro": kokoro_dir}
    if voices is None:
        voices = _here(words, language, folders)
    elif folders and "kokoro" not in voices:
        raise KwsError(
            f"--kokoro-dir is Kokoro's. Expected it among --voices. Received: "
            f"{','.join(voices)}",
            f"kws data synth --voices {','.join([*voices, 'kokoro'])} ...",
        )
    plan = speech.Plan(
        words, clips_per_word, others, seed, voices, language, clip_seconds
    )
    made = speech.make(plan, out, counting("clips"), folders)
    if as_json:
        record = {"out": str(out), "made": made, "words": list(words), "seed": seed}
        record |= {"voices": list(voices), "language": language}
        click.echo(json.dumps(record))
    elif made:
        by = ", ".join(engines.get(name).TITLE for name in voices)
        click.echo(f"{made} clips of {', '.join(words)} and others by {by}: {out}")
    else:
        click.echo(f"The corpus is already in {out}")
    if not as_json:
        given: list[object] = ["--from", BEGINNING, "--preset", SPOKEN_RECIPE]
        given += ["--words", ",".join(words), "--data", out]
        if clip_seconds != 1:
            given += ["--clip-seconds", f"{clip_seconds:g}"]
        run = f"runs/{out.resolve().name}"
        click.echo(next_line("kws", "train", *given, "--out", run))


def _here(
    words: tuple[str, ...], language: str, folders: dict[str, Path]
) -> tuple[str, ...]:
    """The engines that can speak these words on this machine; the others are named."""
    from kws.data import voices as engines

    able = [engines.BASE]
    lines = []
    for name in engines.names():
        engine = engines.get(name)
        if name == engines.BASE:
            continue
        if name in folders:  # asked for: if it can't be, that is said
            able.append(name)
            continue
        if (engine.ENGLISH_ONLY and language != engines.ENGLISH) or (
            engine.ASCII_ONLY and not "".join(words).isascii()
        ):
            continue
        error = engine.missing()
        if error is None:
            able.append(name)
        else:
            lines.append(f"  {engine.TITLE}: {error.hint}")
    if lines:
        lines.insert(0, "Not here, with voices that are nearer to people's:")
        click.echo("\n".join(lines), err=True)
    return tuple(able)


@command.command("import")
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    metavar="DIR...",
    type=click.Path(path_type=Path),
)
@_options.out("Folder of the corpus.", required=True)
@_options.speaker
@_options.clip_seconds(default=1.0, show_default=True)
@_options.json
@click.pass_context
def import_(
    ctx: click.Context,
    folders: tuple[Path, ...],
    out: Path,
    speaker: str | None,
    clip_seconds: float,
    as_json: bool,
) -> None:
    """Make a corpus out of recordings of any rate, format and length.

    A folder's name is the word: DIR/yes/take.m4a, or DIR/yes/anna/take.m4a with a
    folder for every speaker. A recording may hold the word once or many times with
    pauses between; each becomes a clip of --clip-seconds, centred and levelled. Noise
    goes into DIR/_background_noise_. OUT/contact_sheet.html shows what was taken, and
    what was not and why. Exit code 1 if a recording or a word gave no clip.

    Without --speaker it is the name in a file's name, else the speaker's folder, else
    the folder that holds the words'.

    Example: kws data import recordings --speaker anna --out corpus
    """
    from kws.data import audio, names, takes
    from kws.data.splits import some
    from kws.progress import counting

    done = takes.make(folders, out, speaker, counting("recordings"), clip_seconds)
    empty = [word for word, row in done.words.items() if not row["clips"]]
    for file in done.strays:
        audio.say(f"{file}: not read (no recording, or too deep in folders)")
    for file, why in done.unreadable.items():
        audio.say(f"{file}: {why}")
    for source, count in sorted(done.converted.items()):
        audio.say(f"converted {source} to 16 kHz mono: {count}")
    for how in dict.fromkeys(done.speakers.values()):
        found = [name for name, which in done.speakers.items() if which == how]
        many = "" if len(found) == 1 else f"{len(found)} "
        several = "" if len(found) == 1 else "s"
        audio.say(f"{many}speaker{several} {some(found)}, {how}")
    page = out / takes.SHEET
    if as_json:
        report = {
            "out": str(out),
            "made": done.made,
            "sheet": str(page),
            "words": done.words,
            "speakers": done.speakers,
            "unreadable": {str(file): why for file, why in done.unreadable.items()},
            "left_out": [
                {
                    "file": str(piece.take.file),
                    "start_s": piece.start_s,
                    "stop_s": piece.stop_s,
                    "problem": piece.problem,
                }
                for piece in done.pieces
                if piece.problem
            ],
        }
        click.echo(json.dumps(report))
    else:
        click.echo(f"{'word':<24}{'recordings':>12}{'clips':>8}{'left out':>10}")
        for word, row in done.words.items():
            counts = f"{row['recordings']:>12}{row['clips']:>8}{row['left_out']:>10}"
            click.echo(names.column(word, 24) + counts)
        if not done.made:
            click.echo(f"The corpus is already in {out}")
        click.echo(f"Look and listen: {page}")
        own = {
            word: row["clips"]
            for word, row in done.words.items()
            if row["clips"] and not word.startswith("_")
        }
        if len(own) > 1:
            click.echo("A folder that --words doesn't name becomes unknown words.")
        if following := train_with_own(out, own, clip_seconds):
            click.echo(f"Next: {following}")
        elif own:
            click.echo("To train, a word needs 3 clips: one for each split.")
    ctx.exit(1 if empty or done.unreadable else 0)


def train_with_own(
    corpus: Path, counts: Mapping[str, int], clip_seconds: float = 1.0
) -> str:
    """The commands that train on people's own recordings; '' where they are too few.

    Few are put beside spoken ones, weighed, and a shipped network learns them, as was
    measured (docs/results.md, "Your own voice").

    Args:
        corpus: The folder of the recordings.
        counts: Word -> its clips there.
        clip_seconds: Length of a clip.
    """
    from kws.data import synth as speech
    from kws.data.splits import SPLITS

    # By itself a word needs a clip for every split; spoken ones are in all of them.
    enough = [word for word, count in counts.items() if count >= len(SPLITS)]
    few = min(counts.values(), default=0) < SPOKEN_CLIPS
    spoken = few and speech.can_say(tuple(counts))
    if not (words := list(counts) if spoken else enough):
        return ""
    longer = [] if clip_seconds == 1 else ["--clip-seconds", f"{clip_seconds:g}"]
    named = ["--words", ",".join(words)]
    end = [*longer, "--out", f"runs/{corpus.resolve().name}"]
    train = ["kws", "train"]
    if not few:
        return shlex.join([*train, *named, "--data", str(corpus), *end])
    train += ["--from", BEGINNING, *named, "--data"]
    if not spoken:
        return shlex.join([*train, str(corpus), *SHORTLY, *end])
    beside = f"{corpus}-spoken"
    synth = ["kws", "data", "synth", *named, *longer, "--out", beside]
    # As many as half of the spoken ones, and no more often than was measured.
    times = min(MOST_TIMES, round(SPOKEN_CLIPS / 2 / min(counts.values())))
    own = str(corpus) if times <= 1 else f"{corpus}:{times}"
    train += [own, "--also", beside, *SHORTLY, *end]
    return f"{shlex.join(synth)} && {shlex.join(train)}"


@command.command()
@click.argument("words", nargs=-1, required=True, metavar="WORD...")
@_options.out("Folder of the corpus; what it holds already counts.", required=True)
@click.option(
    "--takes",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Recordings of each word by a speaker.",
)
@click.option(
    "--near",
    type=_options.NAMES,
    help="Phrases that are nearly the words, with commas between; they become unknown "
    "words.  [default: made of the words]",
)
@click.option(
    "--near-takes",
    type=click.IntRange(0, 1000),
    default=5,
    show_default=True,
    help="Recordings of each of those; 0: none.",
)
@click.option(
    "--room-seconds",
    type=float,
    default=30.0,
    show_default=True,
    help="Length of the two recordings of the room, 10 to 60; 0: none.",
)
@_options.clip_seconds(default=1.0, show_default=True)
@_options.speaker
@click.option(
    "--phone",
    is_flag=True,
    help="Serve the page to a phone in the same network, over HTTPS.",
)
@click.option(
    "--address",
    help="With --phone: this machine's address in that network, where it has several.",
)
@click.option(
    "--terminal", is_flag=True, help="Without a page: needs sounddevice (kws doctor)."
)
@_options.http_port
@_options.no_browser
@_options.json
@click.pass_context
def record(
    ctx: click.Context,
    words: tuple[str, ...],
    out: Path,
    takes: int,
    near: tuple[str, ...] | None,
    near_takes: int,
    room_seconds: float,
    clip_seconds: float,
    speaker: str | None,
    phone: bool,
    address: str | None,
    terminal: bool,
    http_port: int,
    no_browser: bool,
    as_json: bool,
) -> None:
    """Record words with a microphone: a page in the browser asks for them one by one.

    Each recording is checked (clipped, too quiet, cut off), cut and levelled as by kws
    data import, and can be heard and redone. Phrases that are nearly the words and the
    room without a word are asked for too. What is there is never written over; stopped,
    the same command goes on. The page is served to this machine alone, or with
    --phone to your network, under an address that nobody can guess (docs/data.md).

    Example: kws data record "hey robot" "lights off" --out mine
    """
    from kws import lock
    from kws.data import audio
    from kws.data import record as recording
    from kws.deploy import record as serving

    words = tuple(part.strip() for word in words for part in word.split(","))
    asked = recording.prompts(
        words,
        takes,
        near,
        near_takes,
        room_seconds,
        clip_seconds,
    )
    if address is not None and not phone:
        raise click.UsageError("--address is the network's that --phone is in")
    if terminal:
        page = ("--phone", "--http-port", "--no-browser")
        _options.heed(ctx, page, "With --terminal there is no page.")
    if not near_takes:
        _options.heed(ctx, ["--near"], "--near-takes 0 asks for no such phrases.")
    if near is None and near_takes and not recording.near(words):
        audio.say(
            "No phrases that are nearly these words are known here, so none are asked "
            "for: name some with --near"
        )
    session = recording.Session(out, asked, clip_seconds)
    who = "" if speaker is None else session.join(speaker, hidden=False)
    busy = KwsError(
        f"Somebody is recording into {out}", "Use the page that is open, or end it."
    )

    again = shlex.join(["kws", "data", "record", *words, *_options.given(ctx)])

    def then() -> str:
        return after_recording(session, again)

    with lock.locked(out / ".recording", busy):
        if terminal:
            serving.at_terminal(session, who, click.echo)
        else:
            network = serving.network_address(address) if phone else None
            server = serving.Recorder(session, who, then, http_port, network)
            # From the moment that the address is said on: who reads it may stop us.
            with server.serving() as place, contextlib.suppress(KeyboardInterrupt):
                if as_json:
                    table = {"address": place, "fingerprint": server.fingerprint}
                    click.echo(json.dumps(table))
                else:
                    click.echo(serving.invitation(server))
                if not (no_browser or phone):
                    webbrowser.open(place)
                server.finished.wait()
    _report_recording(session, then(), as_json)


def _report_recording(session: Session, following: str, as_json: bool) -> None:
    from kws.data import names
    from kws.data.record import ROOM

    counts = session.counts()
    if as_json:
        table = {
            "out": str(session.out),
            "made": sum(path.is_file() for path in session.made),
            "speakers": session.speakers(),
            "clips": {p.text: n for p, n in zip(session.asked, counts, strict=True)},
            "next": following,
        }
        click.echo(json.dumps(table))
        return
    click.echo(f"{'word':<24}{'clips':>8}")
    for prompt, count in zip(session.asked, counts, strict=True):
        text = f"({prompt.text} room)" if prompt.kind == ROOM else prompt.text
        click.echo(f"{names.column(text, 24)}{count:>8}")
    click.echo(f"Next: {following}")


def after_recording(session: Session, again: str) -> str:
    """The command to go on with: to train, or to record (`again`) where a word has
    fewer clips than there are splits."""
    from kws.data.record import WORD
    from kws.data.splits import SPLITS

    words = [prompt for prompt in session.asked if prompt.kind == WORD]
    counts = dict(zip(session.asked, session.counts(), strict=True))
    if any(counts[prompt] < len(SPLITS) for prompt in words):
        return again
    own = {prompt.text: counts[prompt] for prompt in words}
    return train_with_own(session.out, own, session.clip_seconds)


@command.command()
@_options.out("Recording to make (.wav); its truth goes beside it.", required=True)
@_options.data
@_options.also
@_options.split("train", "val", "test", default="val")
@_options.task
@_options.words()
@_options.clip_seconds(default=1.0, show_default=True)
@_options.seconds
@_options.seed(default=1)
@click.option(
    "--keywords-per-minute", type=_options.Number(0), default=4.0, show_default=True
)
@click.option(
    "--unknown-per-minute", type=_options.Number(0), default=12.0, show_default=True
)
@click.option(
    "--snr-db",
    type=_options.Range(),
    default=(5.0, 25.0),
    show_default="5,25",
    help="How much louder than the bed a word is, at least and at most.",
)
@click.option(
    "--bed-dbfs",
    type=_options.Number(-100, 0),
    default=-45.0,
    show_default=True,
    help="Loudness of the bed, in dB of full scale.",
)
@click.option(
    "--reverberation",
    type=_options.Range(0.01, 10.0),
    help="Say each word in a room whose sound dies away, by 60 dB, within LOW,HIGH "
    "seconds, say 0.2,0.8.  [default: as it was recorded]",
)
@_options.ambient
@click.option(
    "--kind",
    help="Which of the ambient recordings make the bed: speech, noise, music ...  "
    "[default: all]",
)
@click.option(
    "--no-words",
    is_flag=True,
    help="Ambient recordings alone, one after another as they are: whatever is heard "
    "on such a tape is a false alarm.",
)
@_options.json
@click.pass_context
def tape(
    ctx: click.Context,
    out: Path,
    data: Path | None,
    also: tuple[Path, ...],
    split: str,
    task: str | None,
    words: tuple[str, ...] | None,
    clip_seconds: float,
    seconds: float | None,
    seed: int,
    keywords_per_minute: float,
    unknown_per_minute: float,
    snr_db: tuple[float, float],
    bed_dbfs: float,
    reverberation: tuple[float, float] | None,
    ambient: tuple[Path, ...],
    kind: str | None,
    no_words: bool,
    as_json: bool,
) -> None:
    """Make a tape to measure a detector on: a long recording with its truth.

    Clips of a split lie at random times on a bed: background noise of the same split,
    or ambient recordings (--ambient). An hour, where --seconds says nothing else. Or,
    with --no-words, the ambient recordings alone. Equal options give equal files.
    Calibrate on tapes of val, report on tapes of test.

    Example: kws data tape --out tapes/words.wav --seconds 3600

    Example: kws data tape --out tapes/speech.wav --ambient DIR --kind speech --no-words
    """
    from kws import data as datasets
    from kws.data import ambient as sound
    from kws.data import audio
    from kws.data import tape as tapes
    from kws.recipe import SILENCE, UNKNOWN, Task

    _check_tape(ctx, ambient, kind, no_words, out)
    if words and task not in (None, "custom"):
        raise KwsError(
            f"--words makes a task of its own. Received: --task {task} --words "
            f"{','.join(words)}",
            f"kws data tape --words {quoted(','.join(words))} --out {quoted(out)}",
        )
    name = "custom" if words else task or Task().name
    wanted = Task(name, words or (), clip_seconds=clip_seconds)
    labels = datasets.labels(wanted)
    keywords = [w for w in labels if w not in (SILENCE, UNKNOWN)]
    if UNKNOWN not in labels:
        why = f"The task {name} has no other words."
        _options.heed(ctx, ["--unknown-per-minute"], why)
    sounds = [
        s for folder in ambient for s in sound.recordings(folder, split, keywords)
    ]
    kinds = sorted({s.kind for s in sounds})
    if kind is not None:
        sounds = [s for s in sounds if s.kind == kind]
        if not sounds:
            raise KwsError(
                f"No ambient recordings of that kind in the split {split}. Expected "
                f"one of {', '.join(kinds)}. Received: {kind!r}",
                f"--kind {quoted(kinds[0])}",
            )
    if no_words:
        made = tapes.of_sounds(sounds, seconds)
        options: dict[str, Any] = {}
    else:
        if sounds:
            sounds = _lasting(sounds, ambient)
        clips = datasets.load(split, wanted, data, also=also)
        beds = sound.beds(sounds) if sounds else datasets.noise_bank(data, split)
        others = clips.label == (*clips.labels, UNKNOWN).index(UNKNOWN)
        if unknown_per_minute and not others.any():
            audio.say(f"No clips of other words for {split}: keywords alone are laid")
        if not beds:
            audio.say(f"No background noise for {split}: the bed is faint white noise")
        options = {
            "keywords_per_minute": keywords_per_minute,
            "unknown_per_minute": unknown_per_minute,
            "snr_db": snr_db,
            "noise_dbfs": bed_dbfs,
            "reverberation_s": reverberation,
            "seed": seed,
        }
        bed = " and ".join(sorted({s.kind for s in sounds})) or tapes.NOISE
        made = tapes.build(
            clips.pcm,
            clips.label,
            clips.labels,
            beds,
            seconds or 3600.0,
            clip_names=clips.names,
            **options,
        )
        made.made.update(bed=bed)
    made.made.update(split=split, task=wanted.name, words=list(keywords), **options)
    other = out.with_stem(f"{out.stem}-new")
    tapes.save(made, out, f"kws data tape ... --out {quoted(other)}")
    facts = {
        "out": str(out),
        "kind": made.kind,
        "split": split,
        "hours": made.hours,
        "words": len(made.windows),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(
        f"{out}: {made.kind}, {60 * made.hours:.1f} minutes of {split}, "
        f"{len(made.windows)} keywords"
    )
    from kws.cli._run import next_line

    if not words and wanted.name in SHIPPED:
        click.echo(next_line("kws", "eval", SHIPPED[wanted.name], "--tape", out))
    else:
        click.echo(
            "Take it with --tape: kws eval measures a run, kws calibrate tunes it"
        )


def _lasting(sounds: list[Sound], folders: tuple[Path, ...]) -> list[Sound]:
    """Those that can be a bed; how many can't is said, and refused if none can."""
    from kws.data import ambient, audio

    taken = ambient.lasting(sounds)
    if len(taken) == len(sounds):
        return taken
    least = f"{ambient.SHORTEST_BED_S:g} s"
    if not taken:
        raise KwsError(
            f"A bed is of recordings of {least} or more. Received: {len(sounds)} of "
            f"--ambient, all of them shorter, in {', '.join(map(str, folders))}",
            f"kws data tape ... --ambient DIR   (of recordings of {least} or more)",
        )
    count = len(sounds) - len(taken)
    audio.say(f"{count} ambient recordings are shorter than {least}, and no bed")
    return taken


def _check_tape(
    ctx: click.Context,
    ambient: tuple[Path, ...],
    kind: str | None,
    no_words: bool,
    out: Path,
) -> None:
    """Refuse options that would be left unheeded, before anything is read."""
    if no_words:
        why = "A tape without words (--no-words) is its recordings as they are."
        _options.heed(ctx, OF_LAID_WORDS, why)
    if (no_words or kind is not None) and not ambient:
        given = "--no-words" if no_words else f"--kind {quoted(kind)}"
        raise KwsError(
            f"{given} is about ambient recordings. Expected --ambient DIR. "
            f"Received: {given} alone",
            f"{given} --ambient DIR",
        )
    _check_wav(out, "--out", "kws data tape")


def _check_wav(path: Path, option: str, verb: str) -> None:
    if path.suffix.lower() != ".wav":
        raise KwsError(
            f"A tape is a .wav. Received: {option} {path}",
            f"{verb} ... {option} {quoted(path.with_suffix('.wav'))}",
        )


@command.command()
@_options.bundle
@_options.ambient
@_options.out("Folder of the clips; rounds are added to it.", required=True)
@click.option(
    "--nearly",
    default=0.5,
    show_default=True,
    help="Share of a word's threshold from which on a second is taken.",
)
@click.option(
    "--most",
    default=2000,
    show_default=True,
    help="The most clips of a round, those of the highest scores.",
)
@_options.json
def mine(
    run: str,
    ambient: tuple[Path, ...],
    out: Path,
    nearly: float,
    most: int,
    as_json: bool,
) -> None:
    """Cut out what RUN takes for words in sound that holds none.

    The firmware's C listens to the ambient recordings that are for training; seconds in
    which it heard a word, or nearly did, become clips that a training takes as other
    words: --also OUT. Mine again with what was trained: a round more, in the same
    folder. Interrupted, the same command goes on; equal options give equal files.

    Example: kws data mine runs/robot --ambient DIR --out mined
    """
    from kws import bundle as bundles
    from kws import mining
    from kws.progress import counting

    if not ambient:
        raise KwsError(
            "There is nothing to listen to. Expected --ambient DIR. Received: none",
            f"kws data mine {quoted(run)} --ambient DIR --out {quoted(out)}",
        )
    bundle = bundles.load(run)
    done, rounds = mining.mine(
        bundle, ambient, out, nearly, most, counting("seconds heard")
    )
    if as_json:
        table = {"out": str(out), "round": vars(done)}
        click.echo(json.dumps(table | {"rounds": [vars(row) for row in rounds]}))
        return
    click.echo(
        f"{'round':<7}{'run':<20}{'hours':>7}{'false alarms':>14}{'an hour':>9}"
        f"{'heard':>7}{'nearly':>8}{'known':>7}{'taken':>7}"
    )
    for number, row in enumerate(rounds, 1):
        click.echo(
            f"{number:<7}{row.run:<20}{row.hours:>7.2f}{row.false_alarms:>14}"
            f"{row.false_alarms / row.hours if row.hours else 0:>9.1f}"
            f"{row.heard:>7}{row.nearly:>8}"
            f"{row.known:>7}{row.taken:>7}"
        )
    for kind, facts in done.kinds.items():
        click.echo(
            f"{kind}: {facts['hours']:.2f} h, {facts['false_alarms']} false alarms, "
            f"{facts['taken']} clips taken"
        )
    click.echo("  ".join(f"{word} {count}" for word, count in done.words.items()))
    from kws import data as datasets
    from kws.cli._run import next_line

    kept = datasets.of_run(bundle)
    words: list[object] = ["--recipe", bundle.path / "recipe.toml"]
    words += [] if kept.data is None else ["--data", kept.data]
    words += [word for folder in (*kept.also, out) for word in ("--also", folder)]
    words += [word for folder in kept.ambient for word in ("--ambient", folder)]
    again = f"runs/{bundle.path.name}" if bundle.shipped else run
    click.echo(next_line("kws", "train", *words, "--out", f"{again}-mined"))


@command.command()
@click.argument("folder", required=False, type=_options.PATH)
@click.option("--data", type=_options.PATH, hidden=True)  # once FOLDER's name
@_options.json
@click.pass_context
def info(
    ctx: click.Context, folder: Path | None, data: Path | None, as_json: bool
) -> None:
    """Count clips by word and split, and tell how the folder was read.

    Example: kws data info data/speech_commands
    """
    from kws.data import audio, names
    from kws.data.speech_commands import SPLITS, open_corpus
    from kws.data.splits import some

    if folder is not None:
        _options.heed(ctx, ["--data"], "One FOLDER is counted.")
    corpus = open_corpus(folder or data)
    for note in corpus.notes:
        audio.say(note)
    counts: dict[str, dict[str, int]] = {}
    hours = {}
    untold: list[str] = []
    official = corpus.test_set is not None
    for split in SPLITS:
        here = (corpus.path / split).is_dir() or (split == "test" and official)
        if corpus.layout == "archives" and not here:
            continue  # an archive without this split
        recordings = corpus.recordings(split)
        seconds = 0.0
        for item in recordings:
            row = counts.setdefault(item.word, {})
            row[split] = row.get(split, 0) + 1
            if item.length >= 0:
                seconds += item.length / 16000
            elif length := audio.seconds(item.file):
                seconds += length
            else:
                untold.append(str(item.file))
        hours[split] = round(seconds / 3600, 3)
    if untold:
        audio.say(
            f"Not in the hours, as their headers don't tell a length: {some(untold)}"
        )
    noises = sorted(corpus.noises("train"))
    if as_json:
        report = {
            "path": str(corpus.path),
            "layout": corpus.layout,
            "official_test_files": official,
            "words": counts,
            "hours": hours,
            "noises": noises,
        }
        click.echo(json.dumps(report))
        return
    click.echo(f"{corpus.path}  ({corpus.layout})")
    click.echo(f"{'word':<14}" + "".join(f"{split:>9}" for split in SPLITS))
    for word, row in sorted(counts.items()):
        cells = "".join(f"{row.get(s, 0):>9}" for s in SPLITS)
        click.echo(names.column(word, 14) + cells)
    totals = {s: sum(row.get(s, 0) for row in counts.values()) for s in SPLITS}
    click.echo(f"{'clips':<14}" + "".join(f"{totals[s]:>9}" for s in SPLITS))
    click.echo(f"{'hours':<14}" + "".join(f"{hours.get(s, 0.0):>9.2f}" for s in SPLITS))
    click.echo(f"Test set: {'the official test files' if official else 'by the split'}")
    click.echo(f"Background noise: {', '.join(noises) or 'none'}")


@command.command()
@click.argument("folder", type=_options.PATH)
@_options.clip_seconds(default=1.0, show_default=True)
@_options.json
@click.pass_context
def verify(
    ctx: click.Context, folder: Path, clip_seconds: float, as_json: bool
) -> None:
    """Name every bad file. Nothing is changed; exit code 1 if there is one.

    Example: kws data verify corpus
    """
    from kws.data.verify import KINDS
    from kws.data.verify import verify as check
    from kws.progress import counting

    clips, faults = check(folder, counting("clips checked"), clip_seconds)
    if as_json:
        rows = [vars(fault) for fault in faults]
        click.echo(json.dumps({"path": str(folder), "clips": clips, "faults": rows}))
    else:
        for fault in faults:
            click.echo(f"{fault.path}: {KINDS[fault.kind]} ({fault.detail})")
        click.echo(f"{clips} clips checked, {len(faults)} faults in {folder}")
        if {fault.kind for fault in faults} & {"wrong_rate", "stereo", "too_long"}:
            click.echo(
                "Rates, channels and lengths are mended by: kws data import "
                f"{quoted(folder)} "
                f"--out {quoted(f'{folder}-16k')}"
            )
    ctx.exit(1 if faults else 0)


class _BytesProgress:
    """Megabytes on stderr, at most once a second."""

    def __init__(self) -> None:
        self._last = 0.0
        self._start = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < (1 if sys.stderr.isatty() else 10):
            return
        self._last = now
        of = f" of {total / 1e6:.0f}" if total else ""
        line = f"{what} {done / 1e6:.0f}{of} MB"
        if total and done:
            line += f", {(now - self._start) * (total - done) / done:.0f} s left"
        if sys.stderr.isatty():
            click.echo(f"\r{line:<60}", err=True, nl=False)
        else:
            click.echo(line, err=True)

    def end(self) -> None:
        if sys.stderr.isatty():
            click.echo("", err=True)
