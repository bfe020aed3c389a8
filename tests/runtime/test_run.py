"""A run meets Ray while the rest is imported, with a stand-in for Ray, and says what there is if it is stopped."""

import importlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from types import ModuleType

import pytest

from advdmd_ray.config import Config
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.errors import CheckpointError, DivergedError, Interrupted, WorkerLostError
from advdmd_ray.evaluation.summary import write_summary
from advdmd_ray.runs.folder import Start
from advdmd_ray.runtime import cluster, launch, run
from advdmd_ray.runtime.on_ray import on_ray
from advdmd_ray.runtime.room import ClusterRequest
from summaries import summary_with

CONFIG = Config()


class Ray:
    """Is up once the imports have begun, and says whether it was left."""

    def __init__(self) -> None:
        self.importing, self.left, self.room = Event(), False, ClusterRequest()

    @contextmanager
    def connected(self, config: Config) -> Iterator[ClusterRequest]:
        assert config is CONFIG
        assert self.importing.wait(20), "nothing is imported while Ray starts"
        try:
            yield self.room
        finally:
            self.left = True

    def importer(self, name: str) -> ModuleType:
        assert name.startswith("advdmd_ray.")
        self.importing.set()
        return importlib.import_module(name)

    def broken(self, name: str) -> ModuleType:
        self.importing.set()
        raise ImportError(f"no {name}")


def test_ray_starts_while_the_rest_is_imported_and_the_place_is_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, clock = Ray(), StartClock()
    monkeypatch.setattr(cluster, "connected", ray.connected)
    monkeypatch.setattr(run, "import_module", ray.importer)
    with run._on_ray(CONFIG, clock) as place:
        assert isinstance(place, partial)
        assert (place.func, place.keywords) == (on_ray, {"room": ray.room})
        assert set(clock.seconds) == {"imports"}
        assert not ray.left
    assert ray.left


def test_what_cannot_be_imported_ends_ray_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray()
    monkeypatch.setattr(cluster, "connected", ray.connected)
    monkeypatch.setattr(run, "import_module", ray.broken)
    with pytest.raises(ImportError, match=r"no advdmd_ray\.runtime\.launch"), run._on_ray(CONFIG, StartClock()):
        pytest.fail("there is no place")
    assert ray.left


class Training:
    """What `launched` gives: a controller whose run is hit by signals, and an end that may be."""

    def __init__(
        self,
        folder: Path,
        *,
        start: Sequence[int] = (),
        loops: Sequence[int] = (),
        end: Sequence[int] = (),
    ) -> None:
        self._folder, self._start, self._loops, self._end = folder, start, loops, end
        self.failure: Exception | None = None
        self.version, self.finished = 3, False

    @contextmanager
    def launched(self, config: Config, place: None, checkpoint: Path | None, *_: object) -> Iterator["Training"]:
        self.sends(self._start)
        yield self
        self.sends(self._end)
        self.finished = True

    def run(self) -> None:
        self.version += 1
        if self.failure is not None:
            raise self.failure
        self.sends(self._loops)
        (self._folder / "checkpoints" / f"step-{self.version:08d}").mkdir(parents=True)

    def sends(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0)


TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize(
    ("signals", "resumed", "line"),
    [
        ({"start": [TERM]}, None, r"stopped by SIGTERM, before its training began; nothing is saved; --fresh .*"),
        (
            {"start": [INT]},
            "checkpoints/step-00000003",
            r"stopped by Ctrl-C, before .* began; \S+/step-00000003 is saved, and --resume auto goes on from it",
        ),
        (
            {"start": [INT]},
            "../other/step-00000007",
            r"stopped by Ctrl-C, before .*; nothing is saved; remove \S+/run, and --resume \S+/step-00000007 begins .*",
        ),
        (
            {"loops": [TERM]},
            "checkpoints/step-00000003",
            r"stopped by SIGTERM, at cycle 4 of 9; \S+/step-00000004 is saved, and --resume auto goes on from it",
        ),
        (
            {"loops": [INT, TERM]},
            "checkpoints/step-00000003",
            r"stopped at once by SIGTERM, a second signal after Ctrl-C, at cycle 4 of 9; \S+/step-00000003 is saved.*",
        ),
        (
            {"loops": [INT, INT]},
            None,
            r"stopped at once by .*, at cycle 4 of 9; nothing is saved; --fresh begins again",
        ),
        ({"end": [INT]}, None, r"stopped by Ctrl-C, after its training; \S+/step-00000004 is saved, and --resume .*"),
    ],
)
def test_a_run_that_is_stopped_says_by_what_and_where_and_what_there_is(
    signals: dict[str, list[int]], resumed: str | None, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = tmp_path / "run", Config.model_validate({"run": {"output": str(tmp_path), "cycles": 9}})
    training, checkpoint = Training(folder, **signals), None if resumed is None else folder / resumed
    if checkpoint is not None:
        checkpoint.mkdir(parents=True)
    monkeypatch.setattr(run.preflight, "check", lambda *_, **__: Start(folder, checkpoint, None, "a run"))
    monkeypatch.setattr(launch, "launched", training.launched)
    with pytest.raises(Interrupted, match=f"^{line}$") as stopped:
        run.run(config, local=True)
    assert stopped.value.number == next(iter(signals.values()))[-1]
    assert not training.finished


def test_a_run_says_what_it_is_before_what_it_is_at_and_last_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config.model_validate({"run": {"name": "run", "output": str(tmp_path), "cycles": 9}})
    monkeypatch.setattr(run.preflight, "check", lambda *_, **__: Start(config.folder, None, None, "a run"))
    monkeypatch.setattr(launch, "launched", Training(config.folder).launched)
    write_summary(config.folder / "summary.json", summary_with(cycles=9))
    assert run.run(config, local=True, age_s=61.0).report == config.folder / "report.html"
    first, never, phase, *_, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("a run", f"look at {config.folder / 'report.html'}")
    assert never.startswith("RL never begins in this run: cadence.warm_dmd_updates is 60")
    assert phase == "run: 1:01 importing torch and diffusers"


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (
            WorkerLostError("rank 1 is gone"),
            r"^rank 1 is gone; \S+/step-00000003 is saved, and --resume auto goes on .*$",
        ),
        (CheckpointError("disk full"), r"^disk full; \S+/step-00000003 is saved, and --resume auto goes on from it$"),
        (DivergedError("it diverges; go back"), r"^it diverges; go back$"),
    ],
)
def test_a_run_that_fails_while_it_trains_says_what_there_is(
    failure: Exception, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = tmp_path / "run", Config.model_validate({"run": {"output": str(tmp_path), "cycles": 9}})
    (folder / "checkpoints" / "step-00000003").mkdir(parents=True)
    monkeypatch.setattr(run.preflight, "check", lambda *_, **__: Start(folder, None, None, "a run"))
    training = Training(folder)
    training.failure = failure
    monkeypatch.setattr(launch, "launched", training.launched)
    with pytest.raises(type(failure), match=line):
        run.run(config, local=True)
