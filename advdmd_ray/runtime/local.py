"""This process as the place of a run: the same parts, the same record batches and the same controller, without Ray.

A task is done when it is started, so the order of work is fixed.
"""

import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Reference, Task
from advdmd_ray.controller.staff import role_of, worker_names
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.data.encoding import encode_here
from advdmd_ray.data.source import Encoded, EncodingTask
from advdmd_ray.diffusion.threads import threads
from advdmd_ray.diffusion.transfer import let_go
from advdmd_ray.errors import FAILURES, UserError
from advdmd_ray.learner.checkpoint import Checkpoint
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.worker import LearnerWorker
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.runs.addresses import own_address
from advdmd_ray.runs.export import export
from advdmd_ray.runs.finish import Judged, Phases, judged_run, report_run
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.workers import build_reward_worker, build_rollout_worker, learner_parts, make_shards_here
from advdmd_ray.runs.sinks import following
from advdmd_ray.runs.targets import identity_of
from advdmd_ray.runs.verdict import draw_here
from advdmd_ray.runtime.counting import judge_progress, samples_progress, texts_progress
from advdmd_ray.runtime.failure import worker_failed
from advdmd_ray.stations import work
from advdmd_ray.stations.records import GroupInfo, Lease
from advdmd_ray.stations.reward import RewardWorker
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import Manifest, Snapshot
from advdmd_ray.stations.weights.store import Published


class LocalShell:
    """All workers in this process."""

    def __init__(self, config: Config, checkpoint: Checkpoint | None = None, start: StartClock | None = None) -> None:
        start = StartClock() if start is None else start
        start.begins("encoding prompts")
        with texts_progress() as progress:
            table = encode_table(config, progress)
        start.ended("texts")
        start.begins("loading models")
        with samples_progress() as progress:
            make_shards_here(config, table, progress)
        self.prompts = table.rollouts
        self._config, self._table = config, table
        self._rollout: dict[str, RolloutWorker] = {}
        self._reward: dict[str, RewardWorker] = {}
        for name in (*worker_names("rollout", config.rollout.actors), *worker_names("reward", config.reward.workers)):
            self._hire(name)
        self._learner = LearnerWorker(**learner_parts(config, SoloGang(), table, checkpoint))
        self._done: dict[Task, Any] = {}

    @property
    def rollout_workers(self) -> tuple[str, ...]:
        """See `Shell`."""
        return tuple(self._rollout)

    @property
    def reward_workers(self) -> tuple[str, ...]:
        """See `Shell`."""
        return tuple(self._reward)

    def _hire(self, worker: str) -> None:
        if role_of(worker) == "rollout":
            self._rollout[worker] = build_rollout_worker(self._config, worker, self._table)
        else:
            self._reward[worker] = build_reward_worker(self._config, worker, self._table)

    def coming(self) -> tuple[Task, ...]:
        """See `Shell`: all are up."""
        return ()

    def bring(self, worker: str) -> Task:
        """See `Shell`.

        Raises:
            ValueError: for one that is there: no worker of this process ends before it does.
        """
        if worker in self._rollout or worker in self._reward:
            raise ValueError(f"{worker} is up as long as its process")
        self._hire(worker)
        return self._finish(worker, worker)

    def dismiss(self, worker: str) -> None:
        """See `Shell`: its networks are let go."""
        del (self._rollout if role_of(worker) == "rollout" else self._reward)[worker]

    def restart(self, checkpoint: Path | None) -> None:
        """See `Shell`.

        Raises:
            ValueError: always: the learner of this process does not end before it does.
        """
        raise ValueError(f"the learner is up as long as its process, it need not go back to {checkpoint}")

    def ping(self, worker: str) -> Task:
        """See `Shell`: whoever is asked is here."""
        return self._finish(worker, worker)

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        """See `Shell`; its group is handed over at once."""
        actor, snapshot = self._rollout[worker], Snapshot(student.manifest, student.payload)
        generated, group = work.generate(actor, lease, snapshot)
        handed_over, payload = work.hand_over(actor, group)
        return self._finish(worker, (generated, handed_over), payload)

    def hand_over(self, generated: Task, lease: Lease) -> Task:
        """See `Shell`.

        Raises:
            ValueError: always: it was handed over when it was generated.
        """
        raise ValueError(f"ordinal {lease.ordinal} was handed over when {generated.worker} generated it")

    def score(self, worker: str, group: Reference, discriminator: Published) -> Task:
        """See `Shell`."""
        snapshot = Snapshot(discriminator.manifest, discriminator.payload)
        outcome, scores = work.score(self._reward[worker], group, snapshot)
        return self._finish(worker, outcome, (group, scores))

    def batches(self, payload: Reference) -> tuple[pa.RecordBatch, ...]:
        """See `Shell`."""
        return payload if isinstance(payload, tuple) else (payload,)

    def publication(self) -> tuple[tuple[Manifest, Manifest], Reference, Reference]:
        """See `Shell`."""
        student, discriminator = self._learner.learner.snapshots()
        return (student.manifest, discriminator.manifest), student.payload, discriminator.payload

    def fetch(self, groups: Sequence[tuple[GroupInfo, Reference]]) -> Task:
        """See `Shell`; all bytes are here."""
        self._learner.hold([group_and_scores for _, group_and_scores in groups])
        return self._finish("learner", ())

    def cycle(self, infos: Sequence[GroupInfo]) -> Task:
        """See `Shell`."""
        outcome, student, discriminator = self._learner.cycle(infos)
        return self._finish("learner", outcome, (student, discriminator))

    def checkpoint(self, facts: Mapping[str, Any]) -> Task:
        """See `Shell`."""
        return self._finish("learner", self._learner.checkpoint(facts))

    def grid(self) -> Task:
        """See `Shell`."""
        return self._finish("learner", self._learner.grid())

    def judge(self) -> Task:
        """See `Shell`."""
        return self._finish("learner", self._learner.judge())

    def validate(self) -> Task:
        """See `Shell`."""
        return self._finish("learner", self._learner.validate())

    def wait(self, timeout_s: float) -> list[Task]:  # noqa: ARG002 - every task is done
        """See `Shell`: all of them, oldest first. One that waited would age while others are worked on."""
        return list(self._done)

    def outcome(self, task: Task) -> Any:
        """See `Shell`."""
        return self._done.pop(task)

    def stop(self) -> None:
        """Lets go of the networks of all workers: the judge needs their room."""
        self._rollout, self._reward = {}, {}
        del self._learner
        let_go()

    def _finish(self, worker: str, outcome: Any, payload: Reference = None) -> Task:
        task = Task(worker, (), payload)
        self._done[task] = outcome
        return task


@contextmanager
def in_this_process(config: Config) -> Iterator["LocalPlace"]:
    """This process as the place of a run, with the threads of a learner rank; the caller gets its own back.

    Raises:
        WorkerFailedError: for an error that nobody expects; its traceback is in the run folder.
    """
    folder = RunFolder(config.folder)
    with threads(config.learner.threads):
        try:
            most, identity = config.metrics.history_bytes, identity_of(config)
            with (
                MetricsHub(folder.metrics, most_bytes=most, identity=identity) as hub,
                following(config, folder, hub.cycle),
            ):
                yield LocalPlace(config, hub)
        except (UserError, *FAILURES):
            raise
        except Exception as error:
            raise worker_failed(folder, error, traceback.format_exc()) from error


class LocalPlace:
    """`Place` without Ray."""

    note = "all in this process, without Ray"

    def __init__(self, config: Config, hub: MetricsHub) -> None:
        self._config, self.hub = config, hub

    def address(self) -> str:
        """See `Place`."""
        return own_address()

    def encode(self, tasks: Sequence[EncodingTask]) -> Generator[Encoded]:
        """See `Place`; images are decoded in threads."""
        yield from encode_here(self._config, tasks)

    @contextmanager
    def workers(self, checkpoint: Checkpoint | None, start: StartClock) -> Iterator[LocalShell]:
        """See `Place`."""
        shell = LocalShell(self._config, checkpoint, start)
        try:
            yield shell
        finally:
            shell.stop()

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """See `Place`.

        Raises:
            ValueError: always: no gang is lost here.
        """
        raise ValueError(f"a run in one process never goes back, not to {checkpoint}")

    def export(self) -> Path:
        """See `Place`."""
        return export(self._config)

    def judge(self, student: Path) -> Judged:
        """See `Place`."""
        try:
            with judge_progress() as progress:
                return judged_run(self._config, draw_here(self._config, student, progress))
        except (UserError, *FAILURES):
            raise
        except Exception as error:
            raise worker_failed(RunFolder(self._config.folder), error, traceback.format_exc()) from error

    def report(self, phases: Phases, judged: Judged) -> None:
        """See `Place`."""
        report_run(self._config, phases, judged)
