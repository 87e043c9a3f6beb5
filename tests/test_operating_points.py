"""Settings are tried by the board's own detector, chosen as said, and kept in a run."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import browser as browsers
import numpy as np
import pytest
import reference_detector
from click.testing import CliRunner

from kws import bundle as bundles
from kws import operating_points, tapes
from kws.bundle import Bundle
from kws.cli import cli
from kws.data import tape as tapes_of
from kws.data.tape import Tape, Window
from kws.deploy import flash, host
from kws.engines import host as engine
from kws.errors import CheckFailed, KwsError
from kws.graph import reader
from kws.operating_points import Aim, Decisions, Listener, Settings
from kws.recipe import Q15_ONE, Detector
from kws.report import facts, operating, shell

HOP_S = 0.16  # of kwt-tiny's decisions
LABELS = 10
YES, NO, UP = 2, 3, 4
END = "\ue010"  # WebDriver's code of the key


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundles.load("kwt-tiny")


@pytest.fixture(scope="module")
def library(bundle: Bundle) -> Iterator[host.Opened]:
    with host.opened(host.library(bundle), len(bundle.labels)) as copy:
        yield copy


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Half a minute of tones that rise and fall, in bursts, and a rest of a frame: the
    network takes some of them for words."""
    rng = np.random.default_rng(5)
    t = np.arange(16000) / 16000
    out = []
    for _ in range(30):
        low, high = rng.uniform(150, 900), rng.uniform(-1500, 1500)
        tone = sum(np.sin(2 * np.pi * k * (low + high * t) * t) / k for k in (1, 2, 3))
        bell = np.exp(-((t - rng.uniform(0.3, 0.7)) ** 2) / 0.02)
        noise = rng.normal(0, rng.uniform(0.01, 0.5), len(t))
        out.append(rng.uniform(500, 6000) * bell * (tone + noise) + rng.normal(0, 30))
    return np.append(np.concatenate(out), np.zeros(77)).astype(np.int16)


def test_decisions_are_those_of_the_loop(
    bundle: Bundle, library: host.Opened, sound: np.ndarray
) -> None:
    logits, time_ms = library.decide(sound)
    windows = 1 + (len(sound) - 16000) // 2560
    assert logits.shape == (windows, LABELS)
    assert time_ms.tolist() == [
        (480 + 160 * (97 + 16 * k)) // 16 for k in range(windows)
    ]
    # A decision is what a clip of the same samples gives.
    starts = [0, 2560 * 7, 2560 * (windows - 1)]
    clips = np.stack([sound[at : at + 16000] for at in starts])
    assert np.array_equal(logits[[0, 7, windows - 1]], engine.logits(bundle, clips))


def test_what_is_heard_of_stored_decisions_is_what_the_loop_hears(
    bundle: Bundle, sound: np.ndarray, library: host.Opened
) -> None:
    logits, time_ms = library.decide(sound)
    for detector in (
        Detector(smoothing=2, threshold=0.3, rearm=0.2, refractory_ms=300),
        Detector(
            smoothing=1, word_thresholds=(0.2, 0.3) * 4, rearm=0.15, refractory_ms=0
        ),
    ):
        recipe = dataclasses.replace(bundle.recipe, detector=detector)
        changed = dataclasses.replace(bundle, recipe=recipe)
        settings = Settings.of(changed)
        threshold = np.array([Q15_ONE] * 2 + list(settings.thresholds))
        rearm = np.full(LABELS, settings.rearm)
        sums = library.sums(logits, settings.smoothing)
        decision, label, score = library.hear(
            sums, settings.smoothing, settings.refractory, threshold, rearm
        )
        with host.opened(host.library(changed), LABELS) as copy:
            events = copy.detect(sound)
        assert len(events) > 5
        found = zip(
            label.tolist(), time_ms[decision].tolist(), score.tolist(), strict=True
        )
        assert list(found) == [(e[0], e[2], e[3]) for e in events]


def test_any_settings_are_heard_by_the_detectors_rules(
    bundle: Bundle, library: host.Opened
) -> None:
    """Skipping what is quiet changes nothing; see reference_detector."""
    rng = np.random.default_rng(8)
    scale = reader.read(bundle.model_bytes(), "model").output.scale
    heard_any = 0
    for _ in range(40):
        logits = np.full((300, LABELS), -100, np.int8)
        logits[:, 0] = 100
        for start in rng.integers(0, 290, 25):  # bursts in silence
            length, word = int(rng.integers(1, 9)), int(rng.integers(1, LABELS))
            logits[start : start + length, 0] = -100
            logits[start : start + length, word] = rng.integers(-40, 128)
        levels = rng.uniform(0.2, 0.95, LABELS)
        settings = reference_detector.Settings(
            labels=LABELS,
            smoothing=int(rng.integers(1, 8)),
            refractory=int(rng.integers(0, 30)),
            threshold=levels.tolist(),
            rearm=[float(levels[2:].min() * rng.uniform(0.1, 1))] * LABELS,
            scale=scale,
        )
        model = reference_detector.Model(settings)
        expected = []
        for i, row in enumerate(logits):
            word, scores = model.step(row.astype(int))
            if word >= 0:
                expected.append((i, word, scores[word]))
        found = library.hear(
            library.sums(logits, settings.smoothing),
            settings.smoothing,
            settings.refractory,
            np.rint(levels * Q15_ONE),
            np.rint(np.array(settings.rearm) * Q15_ONE),
        )
        assert (
            list(zip(*(column.tolist() for column in found), strict=True)) == expected
        )
        heard_any += len(expected)
    assert heard_any > 300


def test_settings_that_the_detector_refuses_are_refused(library: host.Opened) -> None:
    logits = np.zeros((5, LABELS), np.int8)
    with pytest.raises(ValueError, match="smoothing"):
        library.sums(logits, 17)
    sums = library.sums(logits, 1)
    with pytest.raises(ValueError, match="refuses"):  # armed again while it is heard
        library.hear(sums, 1, 0, np.full(LABELS, 100), np.full(LABELS, 101))


def listener(
    bundle: Bundle,
    library: host.Opened,
    bursts: list[tuple[float, int, int, bool]],
    hours: float = 1.0,
) -> Listener:
    """Decisions in which a network says words for four decisions.

    Args:
        bursts: When (s), which label, how many steps its logit is above the others'
            (at most 255), and whether the word was said.
    """
    count = int(hours * 3600 / HOP_S)
    logits = np.full((count, LABELS), -128, np.int8)
    logits[:, 0] = 127
    windows = []
    for time_s, word, steps, said in sorted(bursts):
        at = int(time_s / HOP_S)
        logits[at : at + 4, 0] = -128
        logits[at : at + 4, word] = steps - 128
        if said:
            windows.append(Window(bundle.labels[word], time_s - 0.2, time_s + 0.5))
    times = HOP_S * np.arange(count)
    decisions = Decisions("made.wav", "words", hours, windows, logits, times)
    return Listener(bundle, library, [decisions])


def posterior(bundle: Bundle, steps: int) -> float:
    scale = reader.read(bundle.model_bytes(), "model").output.scale
    return 1 / (1 + (LABELS - 1) * math.exp(-scale * steps))


def test_a_gap_between_words_and_false_alarms_is_found(
    bundle: Bundle, library: host.Opened
) -> None:
    bursts = [(20.0 * i + 9, YES + i % 2, 200, True) for i in range(60)]
    bursts += [(20.0 * i + 19, YES + i % 2, 150, False) for i in range(60)]
    heard = listener(bundle, library, bursts)
    assert heard.count(Settings.of(bundle)).total == (0, 60)
    found = operating_points.search(heard, Aim(false_alarms=0.5))
    assert heard.count(found.settings).total == (0, 0)
    assert found.held_out == (0, 0) and found.own == ()
    assert "no better" in found.why_common
    # In the middle of the gap, in logits: as far from the one as from the other.
    scores = []
    for steps in (150, 200):
        share = min(1.0, 4 / found.settings.smoothing) * posterior(bundle, steps)
        scores.append(math.log(share / (1 - share)))
    level = found.settings.thresholds[0] / Q15_ONE
    middle = (math.log(level / (1 - level)) - scores[0]) / (scores[1] - scores[0])
    assert 0.3 < middle < 0.7
    again = operating_points.search(
        listener(bundle, library, bursts), Aim(false_alarms=0.5)
    )
    assert again.settings == found.settings


def test_a_word_that_differs_gets_a_threshold_if_it_is_said_often_enough(
    bundle: Bundle, library: host.Opened
) -> None:
    """`no` is heard where `yes` is a false alarm."""

    def bursts(times: int) -> list[tuple[float, int, int, bool]]:
        made = [(20.0 * i + 5, YES, 200, True) for i in range(60)]
        made += [(20.0 * i + 10, YES, 188, False) for i in range(60)]
        return made + [(20.0 * i + 15, NO, 180, True) for i in range(times)]

    heard = listener(bundle, library, bursts(40))
    found = operating_points.search(heard, Aim(false_alarms=0.0))
    assert found.own == ("yes", "no")
    assert heard.count(found.settings).total == found.held_out == (0, 0)
    assert found.settings.thresholds[0] > found.settings.thresholds[1]
    assert "6 words are said less than 20 times" in found.why_common
    seldom = listener(bundle, library, bursts(10))
    found = operating_points.search(seldom, Aim(false_alarms=0.0))
    assert found.own == () and len(set(found.settings.thresholds)) == 1
    assert seldom.count(found.settings).total == (10, 0)


def test_the_sharing_of_false_alarms_is_the_best_there_is() -> None:
    """Against every combination, on random curves of three words."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        curve = [
            (
                100 * place,
                operating_points.Counts(
                    np.sort(rng.integers(0, 9, (3, 6)))[:, place],
                    np.sort(rng.integers(0, 6, (3, 6)))[:, 5 - place],
                ),
            )
            for place in range(6)
        ]
        table = operating_points._shared(curve, [list(range(6))] * 3)
        best: dict[int, int] = {}
        for places in np.ndindex(6, 6, 6):
            counts = [(curve[p][1], word) for word, p in enumerate(places)]
            alarms = sum(int(c.false_alarms[word]) for c, word in counts)
            misses = sum(int(c.misses[word]) for c, word in counts)
            best[alarms] = min(misses, best.get(alarms, misses))
        assert {alarms: misses for alarms, (misses, _) in table.items()} == best
        for alarms, (misses, chosen) in table.items():
            counts = [(curve[p][1], word) for word, p in enumerate(chosen)]
            assert sum(int(c.misses[word]) for c, word in counts) == misses
            assert sum(int(c.false_alarms[word]) for c, word in counts) == alarms


def test_an_aim_in_misses_takes_the_fewest_false_alarms_or_says_that_there_are_none(
    bundle: Bundle, library: host.Opened
) -> None:
    bursts = [(20.0 * i + 9, YES, 120 + i, True) for i in range(100)]
    bursts += [(20.0 * i + 19, YES, 150, False) for i in range(30)]
    heard = listener(bundle, library, bursts)
    found = operating_points.search(heard, Aim(max_misses=0.5))
    misses, alarms = heard.count(found.settings).total
    assert misses <= 50 and alarms == 0
    found = operating_points.search(heard, Aim(max_misses=0.1))
    assert heard.count(found.settings).total[1] == 30
    deaf = listener(bundle, library, [(9.0 + i, YES, 1, True) for i in range(30)])
    with pytest.raises(CheckFailed, match="at least 30 are missed"):
        operating_points.search(deaf, Aim(max_misses=0.1))


def test_a_rate_that_no_threshold_reaches_is_told_as_one(
    bundle: Bundle, library: host.Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: "Received: --max-misses None"."""
    monkeypatch.setattr(operating_points, "HIGHEST_LOGIT", -1.5)
    bursts = [(20.0 * i + 9, YES, 255, False) for i in range(30)]
    loud = listener(bundle, library, [*bursts, (709.0, YES, 1, True)])
    with pytest.raises(CheckFailed, match="at least 30 false alarms.*--false-alarms 2"):
        operating_points.search(loud, Aim(false_alarms=2))


def test_a_half_that_no_threshold_is_enough_for_takes_the_one_that_is_nearest(
    bundle: Bundle, library: host.Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three false alarms of an hour's second half: allowed in an hour, not in half of
    one, so the highest threshold counts there; or the lowest, where misses matter."""
    monkeypatch.setattr(operating_points, "HIGHEST_LOGIT", -1.3)
    ends = [1 / (1 + math.exp(-level)) for level in (-1.5, -1.3)]
    weak = next(s for s in range(256) if ends[0] < posterior(bundle, s) < ends[1])
    bursts = [(50.0 * i + 9, YES, weak, True) for i in range(60)]
    bursts += [(2500.0 + 20.0 * i, YES, 255, False) for i in range(3)]
    heard = listener(bundle, library, bursts)
    halves = operating_points._on_the_other_half(heard, Aim(false_alarms=3), [])
    assert halves == ((30, 3), (30, 3))
    bursts = [(50.0 * i + 9, YES, 0 if i >= 40 else weak, True) for i in range(60)]
    bursts += [(20.0 * i + 30, YES, weak, False) for i in range(3)]
    heard = listener(bundle, library, bursts)
    halves = operating_points._on_the_other_half(heard, Aim(max_misses=0.5), [])
    assert halves == ((20, 3), (20, 3))


def test_words_that_share_a_threshold_are_not_said_to_have_their_own(
    bundle: Bundle, library: host.Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better on halves, but of all tapes no better ones were found."""
    bursts = [(20.0 * i + 9, YES, 200, True) for i in range(40)]
    heard = listener(bundle, library, bursts)
    counted = ((5, 5), (4, 5))  # with one threshold, with one for each
    monkeypatch.setattr(operating_points, "_on_the_other_half", lambda *_: counted)
    found = operating_points.search(heard, Aim(1.0))
    assert len(set(found.settings.thresholds)) == 1
    assert (found.own, found.held_out) == ((), (5, 5))
    assert "all of the tapes together" in found.why_common


def test_an_aim_that_is_met_exactly_is_met() -> None:
    """0.29 x 100 and 0.57 x 100 are a little less than 29 and 57 in floating point."""
    heard = SimpleNamespace(said=np.array([60, 40]), hours=100.0)
    aim = Aim(max_misses=0.29)
    assert aim.best([(29, 5), (0, 9)], heard) == 0  # type: ignore[arg-type]
    aim = Aim(false_alarms=0.57)
    assert aim.best([(5, 57), (9, 0)], heard) == 0  # type: ignore[arg-type]
    assert aim.best([(5, 58), (9, 0)], heard) == 1  # type: ignore[arg-type]


def test_settings_survive_the_recipe(bundle: Bundle) -> None:
    for level in (1, 2, 12345, 32766, 32767):
        settings = Settings(5, 4, level, (level,) * 8)
        recipe = dataclasses.replace(bundle.recipe, detector=settings.detector(bundle))
        assert recipe.detector.word_thresholds == ()
        assert Settings.of(dataclasses.replace(bundle, recipe=recipe)) == settings
    settings = Settings(16, 6, 300, tuple(range(300, 1100, 100)))
    recipe = dataclasses.replace(bundle.recipe, detector=settings.detector(bundle))
    assert Settings.of(dataclasses.replace(bundle, recipe=recipe)) == settings


def words_of(bundle: Bundle, sound: np.ndarray) -> list[Window]:
    """A truth: every third thing that the network takes for a word."""
    eager = dataclasses.replace(
        bundle.recipe, detector=Detector(smoothing=1, threshold=0.3, rearm=0.1)
    )
    with host.opened(
        host.library(dataclasses.replace(bundle, recipe=eager)), LABELS
    ) as copy:
        events = copy.detect(sound)
    said = [(bundle.labels[label], end / 1000) for label, _, end, _ in events][::3]
    assert len(said) > 3
    return [Window(word, end_s - 0.6, end_s - 0.1) for word, end_s in said]


def test_a_run_is_calibrated_evaluated_and_reported(
    bundle: Bundle, sound: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "tapes"
    tapes_of.save(Tape(sound, words_of(bundle, sound)), folder / "words.wav")
    tapes_of.save(Tape(sound[:160000][::-1], [], "noise"), folder / "noise.wav")
    run = tmp_path / "run"
    shutil.copytree(bundle.path, run)
    before = bundles.load(run)
    arguments = ["calibrate", str(run), "--tape", str(folder), "--false-alarms", "200"]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert {tape["kind"] for tape in table["tapes"]} == {"words", "noise"}
    assert str(tmp_path) not in json.dumps(table["tapes"])
    after = bundles.load(run)
    assert after.model_bytes() == before.model_bytes() and after.hash != before.hash
    assert after.recipe.detector.hop_frames == before.recipe.detector.hop_frames
    assert dataclasses.replace(
        after.recipe, detector=before.recipe.detector
    ) == dataclasses.replace(before.recipe)
    assert after.metrics["operating_point"]["after"]["hours"] == table["hours"]
    assert after.metrics["train"] == before.metrics["train"]
    # What was counted is what the run, as it is now, does on these tapes.
    done = CliRunner().invoke(cli, ["eval", str(run), "--tape", str(folder), "--json"])
    measured = json.loads(done.stdout)
    for key in ("hours", "words", "missed", "false_alarms", "miss_rate_ci95"):
        assert measured[key] == table["after"][key], key
    assert measured["kinds"] == table["after"]["kinds"]
    assert table["after"]["false_alarms_per_hour"] <= 200
    assert table["before"]["missed"] == (
        tapes.evaluate(
            before, [(p.name, tapes_of.open_tape(p)) for p in tapes_of.files([folder])]
        ).score.misses
    )
    shown = operating.body(operating_points.load(run))
    options = ["--limit", "1", "--clips", "0", "--fit", "none"]
    done = CliRunner().invoke(cli, ["report", str(run), *options])
    assert done.exit_code == 0 and shown in (run / "report.html").read_text()
    what_was_found_is_of_the_network_that_it_was_found_for(after)


def what_was_found_is_of_the_network_that_it_was_found_for(run: Bundle) -> None:
    """Before: misses and false alarms of another network were shown as the run's."""
    known = facts.Facts("run", run, facts.Asked())
    assert known.point["hours"] > 0 and operating_points.of_run(run)
    # Moved thresholds of the detector are another point on the same curve.
    detector = dataclasses.replace(run.recipe.detector, threshold=0.9)
    moved = dataclasses.replace(
        run, recipe=dataclasses.replace(run.recipe, detector=detector)
    )
    assert facts.Facts("run", moved, facts.Asked()).point == {}
    assert operating_points.of_run(moved)
    slower = dataclasses.replace(detector, hop_frames=detector.hop_frames + 1)
    for changed in (
        dataclasses.replace(run, thresholds={"0.X": 3}),
        dataclasses.replace(
            run, recipe=dataclasses.replace(run.recipe, detector=slower)
        ),
    ):
        gone = facts.Facts("run", changed, facts.Asked())
        assert gone.point == {} and gone.as_dict()["operating_point"] is None
        with pytest.raises(KwsError, match="of another network"):
            operating_points.of_run(changed)
    # Those of earlier versions do not say whose they are.
    older = {k: v for k, v in run.metrics["operating_point"].items() if k != "hash"}
    told = dataclasses.replace(moved, metrics={"operating_point": older})
    assert facts.Facts("run", told, facts.Asked()).point == known.point


def test_what_was_changed_while_it_calibrated_stays(
    bundle: Bundle, sound: np.ndarray, tmp_path: Path
) -> None:
    """Thresholds that were saved meanwhile were taken back without a word."""
    tape = tmp_path / "words.wav"
    tapes_of.save(Tape(sound, words_of(bundle, sound)), tape)
    run = bundles.load(shutil.copytree(bundle.path, tmp_path / "run"))
    moved = flash.with_hop(run, run.recipe.detector.hop_frames + 1)

    def meanwhile(line: str) -> None:
        if line.startswith("Hearing"):
            bundles.save(moved)

    arguments = run, [tape], Aim(false_alarms=200), "kws calibrate ..."
    with pytest.raises(KwsError, match="changed meanwhile") as caught:
        operating_points.calibrate(*arguments, meanwhile)
    assert caught.value.hint == f"kws calibrate {run.path} ..."
    assert bundles.load(run.path) == moved
    assert not (run.path / operating_points.FILE).exists()
    # What else was measured of the run meanwhile stays too.
    bundles.save(dataclasses.replace(run, metrics={**run.metrics, "other": 1}))
    operating_points.calibrate(*arguments)
    assert bundles.load(run.path).metrics.keys() >= {"operating_point", "other"}


def test_a_shipped_run_is_refused_before_anything_is_heard() -> None:
    done = CliRunner().invoke(cli, ["calibrate", "kwt-tiny", "--tape", "none.wav"])
    assert isinstance(done.exception, KwsError)
    assert "stays as it is" in done.exception.message
    assert "cp -r" in done.exception.hint and "kws calibrate" in done.exception.hint


def test_tapes_without_words_count_no_misses(bundle: Bundle, sound: np.ndarray) -> None:
    with (
        pytest.raises(KwsError, match="No word of the network's"),
        operating_points.listening(bundle, [("noise", Tape(sound, [], "noise"))]),
    ):
        pass


def test_short_tapes_are_said_to_be_short(
    bundle: Bundle, sound: np.ndarray, tmp_path: Path
) -> None:
    tapes_of.save(Tape(sound, words_of(bundle, sound)), tmp_path / "words.wav")
    shutil.copytree(bundle.path, tmp_path / "run")
    arguments = ["calibrate", str(tmp_path / "run"), "--tape", str(tmp_path)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "too short to state 0.5 false alarms an hour" in done.stderr
    assert "7.4 h without one would say so" in done.stderr
    assert "expected of other sound" in done.stdout


def table(bundle: Bundle, library: host.Opened) -> dict:
    bursts = [(20.0 * i + 9, YES + i % 2, 200, True) for i in range(60)]
    bursts += [(20.0 * i + 19, UP, 150 + i, False) for i in range(60)]
    heard = listener(bundle, library, bursts)
    aim = Aim(false_alarms=8)
    found = operating_points.search(heard, aim)
    return operating_points.report(heard, aim, found, "kws calibrate r --tape t")


def test_the_page_has_the_curve_of_every_word_and_needs_no_other_file(
    bundle: Bundle, library: host.Opened
) -> None:
    text = operating.body(table(bundle, library))
    assert "@@" not in text
    assert not re.search(r"(src|href)=|url\(|@import|fetch\(", text)
    (data,) = re.findall(
        r'<script type="application/json" id="operating-data">(.*?)</script>',
        text,
        re.S,
    )
    series = json.loads(data)["series"]
    assert [s["name"] for s in series] == ["all words", "yes", "no"]  # those said
    for one in series:
        alarms = [point["alarms"] for point in one["points"]]
        assert alarms == sorted(alarms, reverse=True)
        assert all(
            p["rate_ci95"][0] <= p["rate"] <= p["rate_ci95"][1] for p in one["points"]
        )
    assert series[0]["after"]["alarms"] <= 8 < series[0]["before"]["alarms"]


def test_a_person_moves_the_point_and_gets_the_command(
    bundle: Bundle, library: host.Opened, tmp_path: Path
) -> None:
    made = table(bundle, library)
    body = operating.body(made)
    series = json.loads(re.findall(r'operating-data">(.*?)</script>', body, re.S)[0])
    points = series["series"][0]["points"]  # the most false alarms first
    page = tmp_path / "page.html"
    page.write_text(shell.page("r", "", [shell.Section("operating", "Points", body)]))
    with browsers.opened(tmp_path, tmp_path / "none.wav") as browser:
        size = {"width": 400, "height": 900, "deviceScaleFactor": 1}
        browser.command("Emulation.setDeviceMetricsOverride", **size, mobile=False)
        browser.driver.get(page.as_uri())
        rings = "return document.querySelectorAll('#operating .ring').length"
        assert browser.run(rings) == 1 and not browser.part("take").is_displayed()
        browser.part("move").send_keys(END)
        told = browser.text("point")
        misses, alarms = map(int, re.findall(r"(\d+) (?:missed|false alarms)", told))
        (point,) = (p for p in points if (p["misses"], p["alarms"]) == (misses, alarms))
        assert told.startswith("Threshold")
        low, high = (100 * share for share in point["missed_ci95"])
        few, many = point["rate_ci95"]
        assert f"(95 %: {low:.1f} % to {high:.1f} %)" in told
        assert f"(95 %: {few:.2f} to {many:.2f})" in told
        line = browser.part("take").find_element("tag name", "code").text
        most = math.ceil(100 * point["rate"]) / 100
        assert line == f"{made['command']} --false-alarms {most:g}"
        assert browser.run(rings) == 1
        # It stays where it is when the window changes.
        browser.run("dispatchEvent(new Event('resize'))")
        assert browser.text("point") == told
        # A word alone has no command.
        browser.part("series").find_elements("tag name", "option")[1].click()
        assert not browser.part("take").is_displayed()
        assert "All words share" in browser.text("alone")
        assert browser.complaints() == []


def test_nothing_of_a_table_is_taken_as_html(
    bundle: Bundle, library: host.Opened
) -> None:
    made = table(bundle, library)
    made["run"] = made["why_common"] = "<b>&"
    made["command"] = "kws calibrate '</script><script>alert(1)'"
    made["tapes"][0]["name"] = "<img>"
    text = operating.body(made)
    assert "<b>&" not in text and "<img>" not in text and "alert(1)" in text
    assert text.count("<script") == text.count("</script>") == 2
    wrong = (
        {key: value for key, value in made.items() if key != "held_out"},
        made | {"command": "rm -r ~ # kws calibrate"},  # offered to be copied
        made | {"command": "kws calibrate r; rm -r ~"},
        made | {"command": None},
        *(made | {"hours": hours} for hours in (0, -1, 10**400, math.nan)),
        *(made | {"words": words} for words in (10**300, 1.5, -1, True, "3")),
        made | {"said": dict.fromkeys(made["said"], 1)},  # fewer than were missed
        made | {"aim": {"false_alarms": math.nan}},
        made | {"curve": [{"threshold": 0.5, "misses": [], "false_alarms": []}]},
        made | {"curve": [made["curve"][0] | {"false_alarms": [10**12] * 8}]},
    )
    for broken in wrong:
        with pytest.raises(KwsError, match="broken"):
            operating.body(broken)
