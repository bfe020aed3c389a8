"""The Ray shell: starts the workers, hands tasks to them and says which are done.

Rollout and reward actors are elastic and stateless: the controller has one that ends replaced under its name, and
issues its work again. The learner's gang is placed together, and lost together: another goes on from a checkpoint,
while the actors stay.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayTaskError

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Reference, Task
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.controller.telemetry import LEARNER
from advdmd_ray.data.registry import source_of
from advdmd_ray.models.text import tell_cut
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runtime.calls import answer
from advdmd_ray.runtime.counting import samples_progress, texts_progress
from advdmd_ray.runtime.crew import Crew
from advdmd_ray.runtime.encoding import encoded, text_actor
from advdmd_ray.runtime.landing import Landing
from advdmd_ray.runtime.places import Places
from advdmd_ray.runtime.ray_gang import RayGang
from advdmd_ray.runtime.shards import make_shards
from advdmd_ray.runtime.starting import Starting
from advdmd_ray.stations.records import GroupInfo, Lease, Stream
from advdmd_ray.stations.weights.snapshot import Manifest
from advdmd_ray.stations.weights.store import Published

# Ray hears of a dead process at once, of a dead node after 15 seconds.
DEATH_S = 20.0


class RayShell:
    """`Shell` on Ray. `start` brings everything up within the configured time or raises.

    Args:
        config: The run's.
        clock: Monotonic clock, seconds.
        places: Where its workers go; None: wherever `ray.placement` has them.

    Attributes:
        prompts: Prompts of rollouts, once started.
        backend: What the ranks reduce over, once started.
    """

    def __init__(
        self, config: Config, clock: Callable[[], float] = time.monotonic, places: Places | None = None
    ) -> None:
        self._config, self._clock, self._places = config, clock, Places(config) if places is None else places
        self._gang, self._crew = RayGang(config, self._places), Crew(config, places=self._places)
        self._landing = Landing()
        self._mark: Mark | None = None
        self._manifests: dict[Stream, tuple[Manifest, ray.ObjectRef]] = {}
        self.prompts = 0
        self.backend = ""

    @property
    def rollout_workers(self) -> tuple[str, ...]:
        """See `Shell`."""
        return self._crew.of("rollout")

    @property
    def reward_workers(self) -> tuple[str, ...]:
        """See `Shell`."""
        return self._crew.of("reward")

    def start(self, checkpoint: Path | None, clock: StartClock, mark: Mark) -> None:
        """Places the gang, starts all workers, has the prompts encoded and waits until each worker is up.

        One of the actors encodes, as it imports the same for its network, and the others import what they need
        meanwhile. Where the data source has images made first, which takes the actors' room, a task encodes before.

        Args:
            checkpoint: Where the learner goes on from.
            clock: Is told when the texts are encoded, and what the start is at.
            mark: Of the run folder, which every rank must see.

        Raises:
            DeadlineError: naming the workers that are not up in time.
            WorkerLostError: if one is lost on the way over and over.
            UserError: if a rank does not see the run folder.
        """
        config, self._mark = self._config, mark
        starting = Starting(config, self._gang, self._crew, mark, config.learner.restarts, self._clock)
        shards = source_of(config).shards()
        made_first = shards if shards is not None and shards.missing() else None
        sights = starting.place()
        if made_first is None:
            among = nullcontext((starting.hire(), starting.replace_encoder))
        else:
            among = text_actor(config, self._places)
        with among as (first, replace), texts_progress() as progress:
            starting.check_seen(sights)  # before the texts: they may take an hour
            clock.begins("encoding prompts")
            facts, payloads = encoded(first, replace, config.ray.start_timeout_s, progress)
        tell_cut(facts.cut, len(facts.texts), "model.max_sequence_length")
        clock.ended("texts")
        # Once, however many workers there are; held for replacements.
        self.prompts, table = facts.rollouts, (ray.put(facts), *payloads)
        if made_first is not None:
            clock.begins("drawing the teacher's samples")
            with samples_progress() as progress:
                make_shards(config, made_first, table, self._places, progress)
            starting.hire()
        clock.begins("loading models")
        self.backend = starting.up(checkpoint, table, crew=True)

    def restart(self, checkpoint: Path | None) -> None:
        """See `Shell`.

        Raises:
            ValueError: if nothing was started yet.
        """
        if self._mark is None:
            raise ValueError("a shell restarts what it has started; start it first")
        self._gang.note_losses()
        self._gang.end()
        self._landing, self._manifests = Landing(), {}
        self._crew.forget()
        starting = Starting(self._config, self._gang, self._crew, self._mark, 0, self._clock)
        starting.check_seen(starting.place())
        self.backend = starting.up(checkpoint, self._crew.table, crew=False)

    def publication(self) -> tuple[tuple[Manifest, Manifest], Reference, Reference]:
        """Manifests of the learner's current student and discriminator, and references of their bytes."""
        results = [rank.publication.options(num_returns=3).remote() for rank in self._gang.ranks]
        manifests, *_ = (answer(facts, "the learner's first weights") for facts, _, _ in results)
        _, student, discriminator = results[0]
        return manifests, student, discriminator

    def bring(self, worker: str) -> Task:
        """See `Shell`."""
        process, opened = self._crew.bring(worker)
        return self._landing.watch(Task(worker, (opened,), process=process))

    def coming(self) -> tuple[Task, ...]:
        """See `Shell`."""
        return tuple(
            self._landing.watch(Task(worker, (opened,), process=self._crew[worker]))
            for worker, opened in self._crew.coming().items()
        )

    def dismiss(self, worker: str) -> None:
        """See `Shell`."""
        self._crew.dismiss(worker)

    def ping(self, worker: str) -> Task:
        """See `Shell`."""
        actors = self._gang.ranks if worker == LEARNER else [self._crew[worker]]
        tickets = tuple(actor.ping.remote() for actor in actors)
        return self._landing.watch(Task(worker, tickets, join=lambda _: worker))

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        """See `Shell`."""
        actor = self._crew[worker]
        reports = actor.generate.remote(lease, self._manifest(student), student.payload)
        return self._landing.watch(Task(worker, (reports,), process=actor))

    def hand_over(self, generated: Task, lease: Lease) -> Task:
        """See `Shell`. It is asked of the process that has the group, be it alive or not."""
        report, payload = generated.process.hand_over.options(num_returns=2).remote(lease)
        return self._landing.watch(Task(generated.worker, (report,), payload, process=generated.process))

    def score(self, worker: str, group: Reference, discriminator: Published) -> Task:
        """See `Shell`."""
        actor = self._crew[worker]
        call = actor.score.options(num_returns=2)
        outcome, scores = call.remote(group, self._manifest(discriminator), discriminator.payload)
        return self._landing.watch(Task(worker, (outcome,), (group, scores), process=actor))

    def _manifest(self, published: Published) -> ray.ObjectRef:
        """A reference of the manifest, which names every tensor: written once, not with each call."""
        stream = published.manifest.stream
        if stream not in self._manifests or self._manifests[stream][0] is not published.manifest:
            self._manifests[stream] = published.manifest, ray.put(published.manifest)
        return self._manifests[stream][1]

    def batches(self, payload: Reference) -> tuple[pa.RecordBatch, ...]:
        """See `Shell`."""
        references = payload if isinstance(payload, tuple) else (payload,)
        return tuple(answer(list(references), "the values of a group that is not finite"))

    def fetch(self, groups: Sequence[tuple[GroupInfo, Reference]]) -> Task:
        """See `Shell`."""
        # Each rank gets its own share only: on several nodes the others' bytes need not travel to it. In their list
        # the references are handed over as they are: the loss of one does not end the call.
        ranks = len(self._gang.ranks)
        tickets = tuple(rank.fetch.remote(list(groups[index::ranks])) for index, rank in enumerate(self._gang.ranks))
        return self._landing.watch(Task(LEARNER, tickets, join=lambda lost: tuple(sorted(chain(*lost)))))

    def cycle(self, infos: Sequence[GroupInfo]) -> Task:
        """See `Shell`."""
        results = [rank.cycle.options(num_returns=3).remote(infos) for rank in self._gang.ranks]
        _, student, discriminator = results[0]
        tickets = tuple(outcome for outcome, _, _ in results)
        return self._landing.watch(Task(LEARNER, tickets, (student, discriminator)))

    def checkpoint(self, facts: Mapping[str, Any]) -> Task:
        """See `Shell`."""
        return self._landing.watch(Task(LEARNER, tuple(rank.checkpoint.remote(facts) for rank in self._gang.ranks)))

    def grid(self) -> Task:
        """See `Shell`."""
        return self._landing.watch(Task(LEARNER, (self._gang.ranks[0].grid.remote(),)))

    def judge(self) -> Task:
        """See `Shell`."""
        return self._landing.watch(Task(LEARNER, (self._gang.ranks[0].judge.remote(),)))

    def validate(self) -> Task:
        """See `Shell`."""
        return self._landing.watch(Task(LEARNER, (self._gang.ranks[0].validate.remote(),)))

    def wait(self, timeout_s: float) -> list[Task]:
        """See `Shell`. A task of several tickets is done when all are, or when one has failed."""
        return self._landing.wait(timeout_s)

    def outcome(self, task: Task) -> Any:
        """See `Shell`. A failed ticket's error goes first, before all have landed."""
        try:
            values = self._landing.values(task)
        except RayTaskError:
            self._say_who_died(task)
            raise
        return task.join(values)

    @staticmethod
    def _say_who_died(task: Task) -> None:
        """A rank that loses another fails in its own collective, often before Ray knows of the death: that is the news.

        Raises:
            WorkerLostError: if another ticket of the task is of a dead worker.
        """
        landed, _ = ray.wait(list(task.tickets), num_returns=len(task.tickets), timeout=DEATH_S)
        for ticket in landed:
            with suppress(RayTaskError):
                answer(ticket, task.worker)

    def stop(self) -> None:
        """Ends all workers; the driver's exit would end them too, but a joined cluster should be free at once."""
        self._crew.end()
        self._gang.end()
