"""Sweeps: points made and kept, resumed, shared, measured; and one point picked."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_corpus
from click.testing import CliRunner
from test_simulate import small_bundle, some_features
from toolbox import need_compiler, need_qemu

from kws import bundle as bundles
from kws.data.audio import wav_bytes
from kws.errors import CheckFailed, KwsError, MissingExtra
from kws.simulate import instructions, points
from kws.simulate import sweep as sweeps
from kws.simulate.counts import Counts
from kws.simulate.measure import Clips, load_clips, make_simulator
from kws.simulate.pick import pick
from kws.simulate.points import Journal, Points, Study
from kws.simulate.simulator import Run
from kws.simulate.sweep import Settings, Sweep, csv, identity, take_moves
from kws.thresholds import Slots, Thresholds

SMALL = Settings(move_clips=4, rounds=1, targets=(0.6,), steps=(2, 4))
GRID = dataclasses.replace(SMALL, rounds=0)
COARSE = {"QUANTILES": (0.4, 0.7, 0.85, 0.95), "SINGLE_QUANTILES": (2,), "MIDDLE": 1}


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """A grid of a few points: sweeps of seconds."""
    for name, value in COARSE.items():
        monkeypatch.setattr(sweeps, name, value)


def small_clips(simulator, clips: int) -> Clips:
    """Clips of random features; labels by turns."""
    spec = simulator.bundle.recipe.features
    features = some_features(spec, clips)
    kind = "float"
    if not hasattr(simulator, "network"):
        steps = np.rint(features / 0.05) + spec.zero_point
        features, kind = steps.clip(-128, 127).astype(np.int8), "int8"
    labels = len(simulator.bundle.labels)
    label = np.arange(clips) % labels
    return Clips("custom", "val", features, label, label != 0, "hash", kind)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The int8 simulator of the shipped network, on its recipe's features."""
    run = tmp_path_factory.mktemp("sweep") / "run"
    shutil.copytree(bundles.PRETRAINED / "kwt-tiny", run)
    return make_simulator(bundles.load(run), "int8")


# ---- picking a point -----------------------------------------------------------------


def sweep_table():
    rows = [
        (0.95, 0.0, 0.0, {"qemu-m4": 8e6, "qemu-m55": 2e6}),
        (0.95, 0.5, 0.1, {"qemu-m4": 7e6, "qemu-m55": 3e6}),
        (0.94, 0.8, 0.2, {"qemu-m4": 6e6}),
        (0.80, 0.9, 0.9, {}),
    ]
    table = [
        {
            "accuracy": accuracy,
            "mhsa_mac_cut": cut,
            "mac_cut": cut / 2,
            "macs": {"mean": 1e6 * (1 - cut / 2)},
            "divergence": divergence,
            "instructions": instructions,
        }
        for accuracy, cut, divergence, instructions in rows
    ]
    boards = {"qemu-m4": {}, "qemu-m55": {}}
    return {"points": table, "pareto": [1, 2, 3], "boards": boards}


@pytest.mark.parametrize(
    ("condition", "cut"),
    [
        ("accuracy>=0.945", 0.5),
        ("loss<=0.01", 0.8),
        ("mhsa_mac_cut>=0.6", 0.8),
        ("macs <= 560000", 0.9),
        ("mac_cut>=0", 0.0),
        ("instructions<=7e6", 0.5),  # of the first board, least moved
        ("instructions[qemu-m4] <= 6e6", 0.8),
        ("instructions[qemu-m55]<=2500000", 0.0),
        ("point=3", 0.9),
    ],
)
def test_pick(condition, cut):
    assert pick(sweep_table(), condition)["mhsa_mac_cut"] == cut


@pytest.mark.parametrize(
    "text",
    [
        "accuracy=0.9",
        "speed>=1",
        "loss<=x",
        "loss<=",
        "",
        "point>=1",
        "accuracy[qemu-m4]>=0.9",
        "instructions[]<=4e6",
        "instructions<4e6",
        "accuracy>=0.9,loss<=0.1",
    ],
)
def test_pick_refuses_other_conditions(text):
    with pytest.raises(KwsError, match="Bad condition"):
        pick(sweep_table(), text)


@pytest.mark.parametrize(
    ("condition", "can"),
    [
        ("accuracy>=0.99", "accuracy 0.95 at best"),
        ("instructions<=5e6", r"instructions\[qemu-m4\] 6000000 at best"),
        ("point=4", "0 to 3"),
        ("point=0.5", "0 to 3"),
        ("instructions[qemu-m0]<=5e6", "one of qemu-m4, qemu-m55"),
    ],
)
def test_pick_says_what_can_be_had(condition, can):
    with pytest.raises(KwsError, match=can) as caught:
        pick(sweep_table(), condition)
    hint = caught.value.hint
    if "--pick" in hint:  # what it proposes works
        assert pick(sweep_table(), hint.split('"')[1])


def test_without_boards_there_are_no_instructions_to_pick_by():
    table = sweep_table() | {"boards": {}}
    with pytest.raises(KwsError, match="nothing was measured"):
        pick(table, "instructions<=4e6")


# ---- greedy moves --------------------------------------------------------------------

MOVES = [(0, -1), (0, 1), (7, -1), (7, 1), (14, 1)]
GAIN = np.array([-0.10, 0.05, -0.02, 0.10, 0.20])
HARM = np.array([-0.01, 0.01, -0.08, 0.10, 0.05])


@pytest.mark.parametrize(
    ("needed", "size", "taken"),
    [
        (0.20, 1, [(14, 1)]),  # the best for its price
        (0.18, 2, [(14, 1), (7, -1)]),  # what mends most per MAC is paid for
        (0.35, 3, [(14, 1), (0, 1), (7, 1)]),  # all of it
        (-0.02, 1, [(7, -1)]),  # MACs to spend: where they mend most
        (-1.0, 3, [(7, -1), (0, -1)]),
    ],
)
def test_moves_are_taken_at_one_price(needed, size, taken):
    assert set(take_moves(MOVES, GAIN, HARM, needed, size)) == set(taken)


# ---- a sweep, resumed ----------------------------------------------------------------


def sweep(simulator, clips, path, settings=SMALL, report=None, **arguments):
    journal = Journal(path, identity(simulator, clips))
    with Points(simulator, clips, journal, **arguments) as made:
        table = Sweep(simulator, clips, made, settings, report).run()
        return table, made


def test_an_empty_journal_is_a_new_one(tmp_path):
    """What a full disk leaves; a line too deep for JSON is a broken one."""
    path = tmp_path / "journal.jsonl"
    path.write_text("")
    Journal(path, "a").add("k", {"x": 1})
    assert Journal(path, "a").points == {"k": {"key": "k", "x": 1}}
    path.write_text("[" * 200_000 + "\n")
    with pytest.raises(KwsError, match="a broken line 1"):
        Journal(path, "a")


def test_a_sweep_does_not_go_on_with_other_sound_of_the_same_names(tmp_path, tiny):
    """Before: points of another corpus, of recordings made anew, were taken for its."""
    words = ("yes", "no", "up", "down", "left", "right", "stop", "go", "cat")
    audio = small_corpus.make(tmp_path / "audio", words)
    before, again = (load_clips(tiny.bundle, "val", audio, kind="int8") for _ in "ab")
    assert identity(tiny, before) == identity(tiny, again)
    Journal(tmp_path / "journal.jsonl", identity(tiny, before))
    clip = audio / "yes" / f"{small_corpus.SPEAKERS['val'][0]}_nohash_0.wav"
    clip.write_bytes(wav_bytes(small_corpus.tone(2000)))
    after = load_clips(tiny.bundle, "val", audio, kind="int8")
    with pytest.raises(KwsError, match="another run, clips or settings"):
        Journal(tmp_path / "journal.jsonl", identity(tiny, after))


def test_sweep_is_resumed_and_its_front_is_one(tmp_path):
    simulator = make_simulator(small_bundle(tmp_path / "run", "published"), "float")
    clips = small_clips(simulator, 6)
    path = tmp_path / "sweep" / "journal.jsonl"
    told: list[tuple[str, float]] = []
    table, made = sweep(
        simulator, clips, path, report=lambda stage, *at: told.append((stage, at[-1]))
    )
    # One share of the whole sweep: it never starts again.
    shares = [share for _, share in told]
    assert shares == sorted(shares) and 0 < shares[0] < 0.1 and shares[-1] <= 1
    assert [stage for stage, _ in itertools.groupby(told, lambda at: at[0])] == [
        "grid",
        "moves",
        "refined",
    ]
    assert len(told) == made.made
    lines = path.read_text().splitlines(keepends=True)
    assert made.made == len(lines) - 1
    found = table["points"]
    assert found[0]["stage"] == "dense"
    assert found[0]["mhsa_mac_cut"] == found[0]["divergence"] == 0
    assert {p["stage"] for p in found} >= {"dense", "global", "single", "refined"}
    front = [found[index] for index in table["pareto"]]
    for one, other in itertools.combinations(front, 2):
        assert one["mhsa_mac_cut"] < other["mhsa_mac_cut"]
        assert one["accuracy"] > other["accuracy"]
    best = max(front, key=lambda point: point["accuracy"])
    assert best["accuracy"] == max(point["accuracy"] for point in found)
    assert len(csv(table).splitlines()) == len(found) + 1
    # What a point says is what its thresholds give.
    again = Thresholds.from_dict(found[-1]["thresholds"], simulator.slots)
    run = simulator.run(clips.features, again)
    assert run.cost()["macs"] == found[-1]["macs"]

    # Stopped in the middle of a line: only what was lost is simulated again.
    path.write_text("".join(lines[:-3]) + lines[-3][:40])
    resumed, made = sweep(simulator, clips, path)
    assert made.made == 3
    assert resumed == table
    resumed, made = sweep(simulator, clips, path)
    assert made.made == 0
    assert resumed == table

    with pytest.raises(KwsError, match="another run"):
        Journal(path, "another")
    path.write_text(lines[0] + "{broken\n" + lines[1])
    with pytest.raises(KwsError, match="broken line 2"):
        Journal(path, made.journal.identity)


def test_processes_make_the_same_points_and_an_error_comes_home(tiny, tmp_path):
    clips = small_clips(tiny, 6)
    alone, made = sweep(tiny, clips, tmp_path / "1.jsonl", GRID)
    together, _ = sweep(tiny, clips, tmp_path / "2.jsonl", GRID, jobs=2)
    assert together == alone
    assert json.loads(json.dumps(alone)) == alone
    journal = Journal(tmp_path / "3.jsonl", "name")
    bad = points.Job("bad", (), Thresholds.dense(tiny.slots).values, board="qemu-m5")
    with (
        Points(tiny, clips, journal, jobs=2) as pool,
        pytest.raises(KwsError, match="No such board") as caught,
    ):
        pool.make([bad], lambda *at: None)
    assert caught.value.hint == "kws boards"


def test_stop_keeps_what_was_made(tiny, tmp_path):
    clips = small_clips(tiny, 6)
    journal = Journal(tmp_path / "journal.jsonl", "name")

    def stop(stage: str, done: int, total: int, share: float) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with Points(tiny, clips, journal) as made, pytest.raises(KeyboardInterrupt):
        Sweep(tiny, clips, made, SMALL, stop).run()
    assert len(Journal(journal.path, "name").points) == 5


def test_errors_come_home_whole():
    import pickle

    for error in (
        KwsError("a", "b"),
        CheckFailed("a", "b"),
        MissingExtra("p", "sweep", "X"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (again.message, again.hint, again.exit_code) == (
            error.message,
            error.hint,
            error.exit_code,
        )


# ---- instructions --------------------------------------------------------------------


def test_instructions_are_measured_and_guide(tiny, tmp_path):
    need_qemu()
    need_compiler()
    clips = small_clips(tiny, 6)
    rng = np.random.default_rng(3)
    pcm = rng.normal(0, 2000, (6, 16000)).astype(np.int16)
    from kws.simulate.measure import features_of

    clips = dataclasses.replace(clips, features=features_of(tiny.bundle, pcm, "int8"))
    settings = dataclasses.replace(
        SMALL, targets=(), boards=("qemu-m4",), board_clips=2, board_targets=(1.0,)
    )
    table, made = sweep(tiny, clips, tmp_path / "j.jsonl", settings, jobs=2, pcm=pcm)
    facts = table["boards"]["qemu-m4"]
    assert facts["clips"] == 2
    assert 2_000_000 < facts["dense"] < 6_000_000
    counts = [
        p["instructions"]["qemu-m4"] for p in table["points"] if p["instructions"]
    ]
    assert len(counts) == facts["measured"] > 12
    assert len(set(counts)) > 10
    assert facts["guide_error"] < 0.05
    front = [table["points"][i] for i in facts["pareto"]]
    assert len(front) >= 1
    for one, other in itertools.combinations(front, 2):
        assert one["instructions"]["qemu-m4"] > other["instructions"]["qemu-m4"]
        assert one["accuracy"] > other["accuracy"]
    assert all(table["points"][i]["instructions"] for i in table["pareto"])
    # The figure is what the firmware with those thresholds executes.
    last = front[-1]
    again = instructions.measure(
        tiny,
        Thresholds.from_dict(last["thresholds"], tiny.slots),
        "qemu-m4",
        pcm[made.measured()],
        clips.features[made.measured()],
    )
    assert again["instructions"] == last["instructions"]["qemu-m4"]


UNEVEN = Slots((("X", "Q", "K", "P", "M", "H"), ("M", "H"), ("X", "C", "M")))


@pytest.mark.parametrize(
    "slots", [Slots((tuple("XQKPOMH"),) * 4), UNEVEN], ids=["alike", "uneven"]
)
def test_a_guide_finds_the_prices_and_what_is_worth_it(slots):
    from kws.simulate.instructions import Guide

    rng = np.random.default_rng(4)
    dense, count = 1e6, len(slots)
    settings, shares, counts = [], [], []
    prices = dict(X=2e5, Q=1e5, K=3e4, P=9e4, O=8e4, M=2e5, H=2e5, C=5e5)
    price = np.array([prices[kind] for _, kind in slots])
    for _ in range(60):
        encoded = rng.random(count) < 0.5
        share = rng.random(count)
        settings.append(encoded)
        shares.append(share)
        # Encoding costs 1e4, transmitting all costs `price`, and 1e5 are saved.
        counts.append(dense + (encoded * (share * price + 1e4 - 1e5)).sum())
    guide = Guide(slots, dense, settings, shares, counts)
    assert guide.error < 1e-3
    share = np.where(slots.layer == 2, 0.95, 0.2)
    worth = guide.worthwhile(np.ones(count, bool), share)
    np.testing.assert_array_equal(worth, share * price + 1e4 < 1e5)
    assert worth.any() and not worth.all()
    only = rng.random(count) < 0.5  # what isn't encoded is not proposed
    np.testing.assert_array_equal(guide.worthwhile(only, share), worth & only)


def test_shares_are_kept_layer_by_layer_where_kinds_differ():
    """As points hold them in journals: None where a layer has no such kind."""
    elements = np.array([100, 50, 50, 200, 100, 300, 100, 300, 400, 40, 100])
    sent = np.outer([0.5, 1.0], elements)

    class Network:
        slots = UNEVEN

        def elements(self):
            return elements

    counts = Counts(sent, np.zeros((2, 3), int), frozenset(UNEVEN))
    table = instructions.layer_sent(Run(np.zeros((2, 4)), counts, Network()))
    everywhere, nowhere = [0.75] * 3, None
    assert table == {
        "X": [0.75, nowhere, 0.75],
        "Q": [0.75, nowhere, nowhere],
        "K": [0.75, nowhere, nowhere],
        "P": [0.75, nowhere, nowhere],
        "M": everywhere,
        "H": [0.75, 0.75, nowhere],
        "C": [nowhere, nowhere, 0.75],
    }
    again = instructions.shares_of(json.loads(json.dumps(table)), UNEVEN)
    np.testing.assert_array_equal(again, [0.75] * len(UNEVEN))


# ---- shared with others --------------------------------------------------------------


SCRIPT = """
import sys
sys.path[:0] = {folders!r}
import test_sweep as t
for name, value in t.COARSE.items():
    setattr(t.sweeps, name, value)
from pathlib import Path
from kws import bundle as bundles
from kws.simulate.measure import make_simulator
from kws.simulate.points import Study
from kws.simulate.sweep import identity
import json, time
if __name__ == "__main__":
    simulator = make_simulator(bundles.load({run!r}), "int8")
    clips = t.small_clips(simulator, 16)
    study = Study(sys.argv[1], identity(simulator, clips))
    Path(sys.argv[3]).touch()
    while not Path(sys.argv[4]).exists():  # both begin together
        time.sleep(0.05)
    table, made = t.sweep(simulator, clips, Path(sys.argv[2]), t.GRID, study=study)
    print(json.dumps([made.made, table]))
"""


@pytest.mark.parametrize("where", ["study.log", "sqlite:///{}/study.db"])
def test_two_processes_share_a_study(tiny, tmp_path, where):
    pytest.importorskip("optuna")
    where = where.format(tmp_path) if "://" in where else str(tmp_path / where)
    here = Path(__file__).parent
    script = SCRIPT.format(
        folders=[str(here.parent), str(here)], run=str(tiny.bundle.path)
    )
    file = tmp_path / "half.py"
    file.write_text(script)
    clips = small_clips(tiny, 16)
    Study(where, identity(tiny, clips))  # the database's tables
    both = [
        subprocess.Popen(
            [sys.executable, str(file), where, str(tmp_path / f"{i}.jsonl")]
            + [str(tmp_path / f"ready{k}") for k in (i, 1 - i)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    (one, mine), (other, theirs) = (json.loads(p.communicate()[0]) for p in both)
    assert [p.returncode for p in both] == [0, 0]
    assert mine == theirs
    total = len((tmp_path / "0.jsonl").read_text().splitlines()) - 1
    assert one > 0 and other > 0
    assert total <= one + other <= total + 10  # hardly any point twice
    # Who comes later finds everything there.
    study = Study(where, identity(tiny, clips))
    third, made = sweep(tiny, clips, tmp_path / "2.jsonl", GRID, study=study)
    assert made.made == 0
    assert third == mine


def test_what_a_dead_process_took_is_made_by_another(tiny, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setattr(points, "PATIENCE_S", 1.0)
    clips = small_clips(tiny, 6)
    where = str(tmp_path / "study.log")
    dead = Study(where, "name")
    job = points.Job("a", (0,) * 28, Thresholds.dense(tiny.slots).values)
    dead.offer([job], again=False)
    assert dead.take({None}).key == "a"
    assert dead.take({None}) is None
    study = Study(where, "name")
    with Points(tiny, clips, Journal(tmp_path / "j", "name"), study=study) as made:
        (table,) = made.make([job], lambda *at: None)
    assert table["divergence"] == 0 and made.made == 1


def test_a_study_that_cannot_be_opened_is_refused(tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "file").write_text("")
    for where in ("nosuch://host/db", str(tmp_path / "file" / "study.log")):
        with pytest.raises(KwsError, match="can't be opened"):
            Study(where, "name")


# ---- the command ---------------------------------------------------------------------


def test_command_refuses_before_it_works(tiny):
    from kws.cli.sweep import command

    def error(*arguments: str) -> str:
        result = CliRunner().invoke(command, list(arguments))
        assert isinstance(result.exception, KwsError), result.output
        return result.exception.message

    run = str(tiny.bundle.path)
    assert "Bad condition" in error(run, "--pick", "speed>=1", "--boards", "none")
    assert "No such board" in error(run, "--boards", "qemu-m5")
    assert "stays as it is" in error(
        "kwt-tiny", "--pick", "loss<=0.1", "--boards", "none"
    )
    assert "int8 network" in error(run, "--engine", "float", "--boards", "qemu-m4")
