"""Images on disk that are encoded before a run's prompts are known, by a team of Ray actors."""

from collections.abc import Callable, Generator, Iterator, Sequence

import ray
import torch
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.encoding import MOST_THREADS
from advdmd_ray.data.source import Encoded, EncodingTask
from advdmd_ray.models.pipeline import image_encoder, load_pipeline
from advdmd_ray.runs.lasting import LATENTS, Mark, marked
from advdmd_ray.runs.needs.node_roles import ANY_ROLE
from advdmd_ray.runtime.calls import PULSE, Handle
from advdmd_ray.runtime.dealing import SHARD_S, deal, hired
from advdmd_ray.runtime.places import Places
from advdmd_ray.runtime.pulsed import Pulsed
from advdmd_ray.runtime.team import Team, team_of


@ray.remote(concurrency_groups={PULSE: 1})  # pyright: ignore[reportCallIssue]
class EncodingActor(Pulsed):
    """Holds the image codec and encodes one shard after the other."""

    def __init__(self, config: Config, threads: int, mark: Mark) -> None:
        torch.set_num_threads(config.rollout.threads)  # of the codec: the same however many actors there are
        self._config, self._threads, self._mark = config, threads, mark
        self._codec: Callable[[Tensor], Tensor] | None = None

    def ready(self) -> None:
        """Answers once there is room for the actor.

        Raises:
            UserError: if it does not see the folder of latents.
        """
        self._mark.check_seen("a worker that encodes images")

    def encode(self, task: EncodingTask) -> Encoded:
        """Encodes a shard."""
        if self._codec is None:  # not in the constructor, whose errors Ray hands on as text only
            pipeline = load_pipeline(self._config.model.path, parts="codec")
            self._codec = image_encoder(pipeline.to("cuda" if ray.get_gpu_ids() else "cpu"))
        return task.encode(self._codec, self._threads)


def encoded_on_ray(config: Config, tasks: Sequence[EncodingTask], places: Places) -> Iterator[Encoded]:
    """`encoded_by` a worker for each GPU that the run will hold, or else for each CPU.

    Args:
        config: The run's, none of whose workers is up.
        tasks: The shards.
        places: Where the workers may be: where those of any role may, whose room they take.
    """
    if tasks:
        yield from encoded_by(team_of(config, len(tasks)), config, tasks, places)


def encoded_by(
    team: Team, config: Config, tasks: Sequence[EncodingTask], places: Places | None = None
) -> Generator[Encoded]:
    """Encodes shards with a team of actors, and ends these.

    Args:
        team: So many actors.
        config: Names the codec and the folder of latents.
        tasks: The shards, at least one.
        places: Where the actors may be: where those of any role may; None: wherever there is room.

    Yields:
        What became of each, in the order that they are done.

    Raises:
        DeadlineError: if no shard is done for an hour.
        WorkerLostError: if workers are lost again and again.
        UserError: if none of them sees the folder of latents; and of a shard.
    """
    threads = max(1, min(MOST_THREADS, int(ray.cluster_resources().get("CPU", 1)) // team.actors))
    kind: Handle = EncodingActor
    room = {"num_cpus": team.num_cpus, "num_gpus": team.num_gpus}
    where = {} if places is None else places.options(ANY_ROLE)
    made = kind.options(**room, scheduling_strategy="SPREAD", **where)
    with (
        marked(config.latents, LATENTS) as mark,
        hired(lambda: made.remote(config, threads, mark), team.actors) as actors,
    ):
        dealt = deal(
            actors,
            tasks,
            lambda actor, task: actor.encode.remote(task),
            lambda task: f"the images of {task.name}",
            SHARD_S,
            lambda actor: actor.ready.remote(),
        )
        for _, encoded in dealt:
            yield encoded
