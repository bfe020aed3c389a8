"""What `advdmd evaluate` draws for the judge, on Ray: by a worker for each GPU."""

from contextlib import closing
from pathlib import Path

from ray.exceptions import RayTaskError

from advdmd_ray.config import Config
from advdmd_ray.console import say
from advdmd_ray.data.registry import source_of
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.judgement import Drawn, Piece, pieces_of
from advdmd_ray.runs.needs.memory import ray_address
from advdmd_ray.runtime.calls import answer
from advdmd_ray.runtime.cluster import met
from advdmd_ray.runtime.counting import encoding_progress
from advdmd_ray.runtime.failure import worker_failed
from advdmd_ray.runtime.image_encoding import encoded_by
from advdmd_ray.runtime.judging import VERDICT_S, drawn_by, patience_s
from advdmd_ray.runtime.on_ray import located
from advdmd_ray.runtime.team import team_here


def drawn_on_ray(
    config: Config, student: Path | None, *, actors: int | None = None, gpus_each: float | None = None
) -> dict[Piece, Drawn]:
    """`draw_here` by many workers: on machines alike the same bits, however many they are.

    They encode the real images first that are not encoded yet.

    Args:
        config: Names the teacher, the judge, and the cluster to join; without one a local Ray is started.
        student: An exported student, on a file system that all nodes share.
        actors: How many draw; None: one for each GPU that Ray has, or where it has none for each node.
        gpus_each: GPUs of each; None: one where there is one.

    Raises:
        UserError: if no cluster answers, or it has too few GPUs.
        DeadlineError: if the workers hang.
        WorkerLostError: if they are lost again and again.
        WorkerFailedError: if a worker meets an error that it does not expect; its traceback is in the run folder.
    """
    config, folder = located(config), None if student is None else student.absolute()
    pieces = pieces_of(config, student=student is not None)
    with met(ray_address(config), None):
        _encode_images(config, actors, gpus_each)
        team = team_here(len(pieces), actors, gpus_each)
        say(f"judging: {team.actors} workers of {team.num_gpus:g} GPUs draw the images")
        try:
            drawn = drawn_by(team, config, folder, pieces, patience_s(config, pieces, elsewhere=True))
            return dict(zip(pieces, answer(drawn, "what was drawn for the judge", VERDICT_S), strict=True))
        except RayTaskError as error:
            raise worker_failed(RunFolder(config.folder), error.cause, str(error)) from error


def _encode_images(config: Config, actors: int | None, gpus_each: float | None) -> None:
    source = source_of(config)
    if not (tasks := source.to_encode()):
        return
    results = encoded_by(team_here(len(tasks), actors, gpus_each), config, tasks)
    with encoding_progress(tasks) as followed, closing(results):
        made = source.encoded(followed(results))
    for line in made.splitlines():
        say(line)
