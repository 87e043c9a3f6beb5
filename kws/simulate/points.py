"""Make a sweep's points: in processes of this machine, and together with others.

A `Job` says what to simulate (thresholds, clips) or to measure (thresholds, board);
what comes out is a table, and depends on nothing else. So points are kept in a journal
by key, any process may make any of them, and a sweep that was stopped is resumed by
running it again.

Several machines share the work through Optuna's storage: a file on a shared folder, or
a database. A study there is a queue: whoever runs out of work takes the next waiting
trial, and everybody reads everybody's results. (Not Ray: nothing here needs a cluster
that is up; these are processes that come and go, and a file that stays.)
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kws.bundle import write_atomic
from kws.errors import KwsError, MissingExtra, quoted
from kws.simulate import instructions
from kws.simulate.measure import Clips, make_simulator, point
from kws.simulate.simulator import Simulator
from kws.simulate.stream import Hearing, Judge, divergence
from kws.thresholds import Thresholds

if TYPE_CHECKING:
    from kws.simulate.measure import AnySimulator

MAX_JOURNAL_BYTES = 256 * 1024 * 1024
# One thread each: there are as many processes as cores.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS") + (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
PATIENCE_S = 60.0  # at least so long is another machine waited for
POLL_S = 0.5


@dataclass(frozen=True)
class Job:
    """One point to make.

    Args:
        key: Its name in journal and study.
        rungs: Its setting, for people who look at a study.
        thresholds: float [slots]; negative: not encoded.
        clips: Simulate the first so many; None: all.
        near: Thresholds whose first layers it shares with other jobs; those layers are
            computed once.
        board: Measure on this board instead.
    """

    key: str
    rungs: tuple[int, ...]
    thresholds: np.ndarray
    clips: int | None = None
    near: np.ndarray | None = None
    board: str | None = None


class Journal:
    """Points made so far, a JSON line each, appended as they come.

    Args:
        path: The file; made where there is none.
        identity: Hash of everything a point depends on but its thresholds.

    Raises:
        KwsError: the journal is of another run, other clips or other settings.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.identity = identity
        self.points: dict[str, dict[str, Any]] = {}
        if path.is_file() and path.stat().st_size > 0:
            self._read()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, (json.dumps({"identity": identity}) + "\n").encode())

    def _read(self) -> None:
        if self.path.stat().st_size > MAX_JOURNAL_BYTES:
            raise self._refuse(f"more than {MAX_JOURNAL_BYTES} bytes")
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        whole = []
        for number, line in enumerate(lines[:-1]):
            try:
                table = json.loads(line)
            except (ValueError, RecursionError):
                table = None
            if not isinstance(table, dict):
                raise self._refuse(f"a broken line {number + 1}")
            if number == 0:
                if table.get("identity") != self.identity:
                    raise self._refuse("a journal of another run, clips or settings")
            elif "key" in table:
                self.points[str(table["key"])] = table
            whole.append(line)
        if lines[-1]:  # the sweep was stopped in the middle of a line
            write_atomic(self.path, ("\n".join(whole) + "\n").encode())

    def _refuse(self, received: str) -> KwsError:
        return KwsError(
            f"Can't resume the sweep: expected the journal of this run on these clips. "
            f"Received: {received} in {self.path}",
            f"rm {quoted(self.path)}   (starts again), or name another folder with "
            "--out",
        )

    def add(self, key: str, table: dict[str, Any]) -> None:
        """Keep one point."""
        table = {"key": key, **table}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(table) + "\n")
        self.points[key] = table


# ---- one process ---------------------------------------------------------------------


class Bench:
    """What makes points, in one process.

    Args:
        simulator: The network.
        clips: Those to simulate.
        dense_logits: [N, labels] of the dense network on them.
        pcm: int16 [M, samples], the clips to measure on boards; M may be 0.
        measured: int [M], which of `clips` those are.
        heard: Tapes to judge on, beside the clips' accuracy; None: clips alone.
    """

    def __init__(
        self,
        simulator: AnySimulator,
        clips: Clips,
        dense_logits: np.ndarray,
        pcm: np.ndarray,
        measured: np.ndarray,
        heard: Hearing | None = None,
    ) -> None:
        self.simulator = simulator
        self.clips = clips
        self.dense_logits = dense_logits
        self.pcm = pcm
        self.measured = measured
        self.judge: Judge | None = None
        if heard is not None:
            assert not isinstance(simulator, Simulator)
            self.judge = Judge(simulator.bundle, simulator.slots, heard)
        self._near: np.ndarray | None = None
        self._prefix: Any = None

    def close(self) -> None:
        """Let go of what is open."""
        if self.judge is not None:
            self.judge.close()

    def make(self, job: Job) -> dict[str, Any]:
        """The table of a job."""
        thresholds = Thresholds(self.simulator.slots, job.thresholds)
        if self.judge is not None and (job.board is not None or job.near is not None):
            return self._on_tapes(self.judge, job, thresholds)
        if job.board is not None:
            features = self.clips.features[self.measured]
            return instructions.measure(
                self.simulator,  # type: ignore[arg-type]
                thresholds,
                job.board,
                self.pcm,
                features,
            )
        prefix = None if job.near is None else self._shared(job.near, job.clips)
        some = self._first(job.clips)
        run = self.simulator.run(some.features, thresholds, prefix=prefix)
        table = point(some, thresholds, run)
        table["divergence"] = float(
            divergence(self.dense_logits[: job.clips], run.logits).mean()
        )
        table["layer_sent"] = instructions.layer_sent(run)
        if self.judge is not None:
            table |= self.judge.tapes(self._steps(thresholds))
        return table

    def _steps(self, thresholds: Thresholds) -> Thresholds:
        assert not isinstance(self.simulator, Simulator)
        return self.simulator.steps(thresholds)

    def _on_tapes(
        self, judge: Judge, job: Job, thresholds: Thresholds
    ) -> dict[str, Any]:
        """A move, or a board's count: both of the excerpt."""
        steps = self._steps(thresholds)
        if job.board is None:
            return judge.excerpt(steps)
        return instructions.measure_stream(judge, steps, job.board)

    def _first(self, count: int | None) -> Clips:
        clips = self.clips
        if count is None:
            return clips
        return replace(
            clips,
            features=clips.features[:count],
            label=clips.label[:count],
            spoken=clips.spoken[:count],
        )

    def _shared(self, near: np.ndarray, clips: int | None) -> Any:
        if self._near is None or not np.array_equal(self._near, near):
            features = self.clips.features[:clips]
            self._near = near
            shared = Thresholds(self.simulator.slots, near)
            self._prefix = self.simulator.prefix(features, shared)
        return self._prefix


_bench: Bench | None = None


def _start_worker(
    folder: str, bundle: Any, engine: str, clips: Clips, heard: Hearing | None
) -> None:
    """In a new process: load the network once, map the clips."""
    global _bench
    from kws.simulate import integer, simulator

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    simulator.WORKERS = integer.WORKERS = 1
    features, logits, pcm, measured = (
        np.load(Path(folder) / f"{name}.npy", mmap_mode="r")
        for name in ("features", "logits", "pcm", "measured")
    )
    clips = replace(clips, features=features)
    if heard is not None:
        heard = _unpack_tapes(heard, Path(folder))
    _bench = Bench(make_simulator(bundle, engine), clips, logits, pcm, measured, heard)


def _pack_tapes(heard: Hearing, folder: Path) -> Hearing:
    """Tapes without their sound, which goes into files for all processes to map."""
    silent = []
    for number, (name, tape, windows) in enumerate(heard.recordings):
        np.save(folder / f"tape{number}.npy", tape.pcm)
        silent.append((name, replace(tape, pcm=np.zeros(0, np.int16)), windows))
    return replace(heard, recordings=tuple(silent))


def _unpack_tapes(heard: Hearing, folder: Path) -> Hearing:
    """The way back."""
    loud = [
        (name, replace(tape, pcm=np.load(folder / f"tape{i}.npy", mmap_mode="r")), said)
        for i, (name, tape, said) in enumerate(heard.recordings)
    ]
    return replace(heard, recordings=tuple(loud))


def _work(job: Job) -> dict[str, Any]:
    assert _bench is not None
    return _bench.make(job)


# ---- all processes of this machine ---------------------------------------------------


class Points:
    """Makes points, with all cores, or reads them from the journal.

    Args:
        simulator: The network.
        clips: Those to simulate.
        journal: Where points are kept.
        jobs: Processes; 1 works in this one.
        pcm: int16 [N, samples] of `clips`, to measure on boards.
        measured: -> which clips to measure, int [M]; called when needed first.
        study: What is shared with other machines.
        heard: Tapes to judge on, too.
    """

    def __init__(
        self,
        simulator: AnySimulator,
        clips: Clips,
        journal: Journal,
        jobs: int = 1,
        pcm: np.ndarray | None = None,
        measured: Callable[[], np.ndarray] | None = None,
        study: Study | None = None,
        heard: Hearing | None = None,
    ) -> None:
        self.simulator = simulator
        self.clips = clips
        self.journal = journal
        self.jobs = jobs
        self.pcm = pcm
        self.measured = measured
        self.study = study
        self.heard = heard
        self.made = 0
        self._pool: Executor | None = None
        self._bench: Bench | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def make(
        self, jobs: Sequence[Job], done: Callable[[int, int], None]
    ) -> list[dict[str, Any]]:
        """The tables of jobs, in order.

        Args:
            jobs: What to make; those in the journal are read.
            done: Called with (points made, points to make).
        """
        missing = {j.key: j for j in jobs if j.key not in self.journal.points}
        total = len(missing)
        source = self._alone(missing) if self.study is None else self._shared(missing)
        for count, (key, table) in enumerate(source):
            self.journal.add(key, table)
            done(count + 1, total)
        return [self.journal.points[job.key] for job in jobs]

    def close(self) -> None:
        """Stop the processes; what they are at is lost."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(self._pool, ProcessPoolExecutor):
                for process in multiprocessing.active_children():
                    process.terminate()
            self._pool.shutdown()
            self._pool = None
        if self._bench is not None:
            self._bench.close()
            self._bench = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Points:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _alone(self, missing: dict[str, Job]) -> Iterator[tuple[str, dict[str, Any]]]:
        futures = {self._submit(job): job.key for job in missing.values()}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], self._result(future)

    def _shared(self, missing: dict[str, Job]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Make what waits in the study; read there what others made."""
        assert self.study is not None
        missing = dict(missing)
        boards = {job.board for job in missing.values()}
        running: dict[Future[dict[str, Any]], tuple[Job, float]] = {}
        heard, patience = time.monotonic(), PATIENCE_S
        try:
            while missing or running:
                for key, table in self.study.finished(missing):
                    del missing[key]
                    heard = time.monotonic()
                    yield key, table
                waited = time.monotonic() - heard
                self.study.offer(missing.values(), again=waited > patience)
                while missing and len(running) < self.jobs:
                    job = self.study.take(boards)
                    if job is None:
                        break
                    running[self._submit(job)] = job, time.monotonic()
                if not running:
                    time.sleep(POLL_S if missing else 0)
                    continue
                finished, _ = concurrent.futures.wait(
                    running, POLL_S, concurrent.futures.FIRST_COMPLETED
                )
                for future in finished:
                    job, started = running.pop(future)
                    self.study.tell(job, self._result(future))
                    heard = time.monotonic()
                    patience = max(patience, 5 * (heard - started))
        finally:
            self.study.give_back()

    def _submit(self, job: Job) -> Future[dict[str, Any]]:
        self.made += 1
        if self._pool is None:
            self._start()
        assert self._pool is not None
        if self._bench is not None:
            return self._pool.submit(self._bench.make, job)
        return self._pool.submit(_work, job)

    @staticmethod
    def _result(future: Future[dict[str, Any]]) -> dict[str, Any]:
        try:
            return future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise KwsError(
                "A process of the sweep was killed, probably for lack of memory. "
                "What was done is kept.",
                "Go on with fewer: the same command with --jobs 1",
                exit_code=1,
            ) from None

    def _start(self) -> None:
        dense = Thresholds.dense(self.simulator.slots)
        logits = self.simulator.run(self.clips.features, dense).logits
        measured = np.zeros(0, int) if self.measured is None else self.measured()
        pcm = np.zeros((0, 0), np.int16) if self.pcm is None else self.pcm[measured]
        if self.jobs == 1:
            self._bench = Bench(
                self.simulator, self.clips, logits, pcm, measured, self.heard
            )
            self._pool = ThreadPoolExecutor(1)
            return
        self._folder = tempfile.TemporaryDirectory(prefix="kws-sweep-")
        arrays = {"features": self.clips.features, "logits": logits}
        arrays |= {"pcm": pcm, "measured": measured}
        for name, array in arrays.items():
            np.save(Path(self._folder.name) / f"{name}.npy", array)
        engine = "float" if isinstance(self.simulator, Simulator) else "int8"
        clips = replace(self.clips, features=np.zeros(0))
        heard = self.heard and _pack_tapes(self.heard, Path(self._folder.name))
        with _environment(dict.fromkeys(ONE_THREAD, "1")):
            # spawn, not fork: TensorFlow's threads don't survive a fork.
            self._pool = ProcessPoolExecutor(
                self.jobs,
                multiprocessing.get_context("spawn"),
                _start_worker,
                (self._folder.name, self.simulator.bundle, engine, clips, heard),
            )
            for _ in range(self.jobs):  # so that all start with this environment
                self._pool.submit(os.getpid)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# ---- other machines ------------------------------------------------------------------


class Study:
    """The queue that several sweeps of the same run share.

    One Optuna study for simulated points and one for each board's: a machine that
    can't measure takes no measurement. A trial's values are accuracy and MACs, or
    instructions; what it is, is in its attributes `key`, `job` and `point`. (Rungs as
    its parameters would be a transaction each.)

    Args:
        where: A file (made where there is none) or a database's address, such as
            sqlite:///sweep.db or postgresql://....
        identity: Of the sweep; others' studies may lie in the same place.

    Raises:
        MissingExtra: Optuna is not installed.
        KwsError: the place can't be opened.
    """

    def __init__(self, where: str, identity: str) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise MissingExtra("optuna", "sweep", "Sharing a sweep")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna = optuna
        self.identity = identity
        self._studies: dict[str | None, Any] = {}
        self._mine: dict[str, tuple[Any, Any]] = {}  # key -> study, trial
        try:
            self.storage = self._open(where)
            self._study(None)
        except Exception as error:
            raise KwsError(
                "The study can't be opened. Expected a file that can be written, or a "
                f"database's address. Received: {where!r} ({error})",
                "--study /shared/folder/sweep.log   (or sqlite:///sweep.db, ...)",
            ) from None

    def _open(self, where: str) -> Any:
        if "://" in where:
            return self.optuna.storages.RDBStorage(where)
        from optuna.storages.journal import JournalFileBackend

        Path(where).parent.mkdir(parents=True, exist_ok=True)
        return self.optuna.storages.JournalStorage(JournalFileBackend(where))

    def _study(self, board: str | None) -> Any:
        if board not in self._studies:
            way = self.optuna.study.StudyDirection
            goals = [way.MAXIMIZE, way.MINIMIZE] if board is None else [way.MINIMIZE]
            self._studies[board] = self.optuna.create_study(
                study_name=f"kws sweep {self.identity[:16]} {board or 'simulated'}",
                storage=self.storage,
                directions=goals,
                load_if_exists=True,
            )
        return self._studies[board]

    def _trials(self, board: str | None, *states: str) -> list[Any]:
        wanted = tuple(getattr(self.optuna.trial.TrialState, name) for name in states)
        found = self._study(board).get_trials(deepcopy=False, states=wanted)
        return [trial for trial in found if "key" in trial.user_attrs]

    def finished(self, missing: dict[str, Job]) -> list[tuple[str, dict[str, Any]]]:
        """Of these jobs, those that somebody has made."""
        found: dict[str, dict[str, Any]] = {}
        for board in {job.board for job in missing.values()}:
            for trial in self._trials(board, "COMPLETE"):
                key, table = trial.user_attrs["key"], trial.user_attrs.get("point")
                if key in missing and isinstance(table, dict):
                    found[key] = table
        return list(found.items())

    def offer(self, jobs: Iterable[Job], again: bool) -> None:
        """Queue what nobody waits for or works at.

        Args:
            jobs: What this process needs.
            again: Also what somebody took long ago and may have died with.
        """
        states = ("WAITING",) if again else ("WAITING", "RUNNING")
        known = dict[str | None, set[str]]()
        for job in jobs:
            if job.board not in known:
                trials = self._trials(job.board, *states)
                known[job.board] = {trial.user_attrs["key"] for trial in trials}
                known[job.board] |= self._mine.keys()
            if job.key not in known[job.board]:
                attributes = {"key": job.key, "job": _pack(job)}
                self._study(job.board).enqueue_trial({}, attributes)

    def take(self, boards: Iterable[str | None]) -> Job | None:
        """Take a job from the queue, so that nobody else will; None: there is none."""
        for board in boards:
            study = self._study(board)
            while self._trials(board, "WAITING"):
                trial = study.ask()
                key = trial.user_attrs.get("key")
                made = {t.user_attrs["key"] for t in self._trials(board, "COMPLETE")}
                if key is not None and key not in made | self._mine.keys():
                    self._mine[key] = (study, trial)
                    return _unpack(trial.user_attrs["job"])
                # Queued twice, or the queue ran empty just now.
                self._fail(study, trial)
        return None

    def tell(self, job: Job, table: dict[str, Any]) -> None:
        """Hand over what was taken and made."""
        study, trial = self._mine.pop(job.key)
        if job.board is not None:
            values = [table["instructions"]]
        elif "accuracy" not in table:  # a move on tapes
            values = [-table["divergence"], 1 - table["tape"]["mac_cut"]]
        else:
            values = [table["accuracy"], table["macs"]["mean"]]
        # SQLite may let two take the same; the other was quicker then.
        with contextlib.suppress(self.optuna.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr("point", table)
            study.tell(trial, values, skip_if_finished=True)

    def give_back(self) -> None:
        """Let others make what was taken and not made."""
        for study, trial in self._mine.values():
            self._fail(study, trial)
        self._mine.clear()

    def _fail(self, study: Any, trial: Any) -> None:
        failed = self.optuna.trial.TrialState.FAIL
        study.tell(trial, state=failed, skip_if_finished=True)


def _pack(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    table = dataclasses.asdict(job)
    for name in ("thresholds", "near"):
        if table[name] is not None:
            table[name] = table[name].tolist()
    return table


def _unpack(table: dict[str, Any]) -> Job:
    near = table["near"]
    return Job(
        key=str(table["key"]),
        rungs=tuple(table["rungs"]),
        thresholds=np.array(table["thresholds"], np.float64),
        clips=table["clips"],
        near=None if near is None else np.array(near, np.float64),
        board=table["board"],
    )
