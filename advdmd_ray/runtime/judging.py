"""The judge at the end of a run, on Ray: what it is to see is drawn by as many workers as the run held room for."""

from pathlib import Path

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advdmd_ray.config import Config
from advdmd_ray.provenance import usable_cores
from advdmd_ray.runs.figures import Figures
from advdmd_ray.runs.finish import Judged, judged_run
from advdmd_ray.runs.judgement import Drawn, JudgeInputs, Piece, PieceDrawer, calls, judge_inputs, pieces_of
from advdmd_ray.runs.verdict import all_threads
from advdmd_ray.runtime.calls import Handle, answer
from advdmd_ray.runtime.dealing import deal, hired
from advdmd_ray.runtime.display import judge_progress
from advdmd_ray.runtime.team import Team, team_of

VERDICT_S = 1800.0
"""The figures of what was drawn: features are small, and no network runs."""
SLACK = 10
"""A piece may take so many times as long as its calls of the network took in the rollout actors."""


def patience_s(config: Config, pieces: list[Piece]) -> float:
    """Seconds within which some piece is done unless the workers hang.

    What the longest piece's calls of the network would take at the pace of the rollout actors, ten times, and the time
    that a worker may take to start. Where nothing was measured, a group takes all of its lease.
    """
    figures = Figures.of(config)
    trajectories = figures.one("advdmd_rollout_trajectories_total")
    busy = sum(
        value
        for labels, value in figures.rows("advdmd_run_role_seconds_total")
        if (labels["role"], labels["state"]) == ("rollout", "busy")
    )
    measured = busy / trajectories if trajectories else 0.0
    trajectory = measured or config.rollout.lease_s / config.rollout.group_size
    longest = max(calls(config, piece) for piece in pieces)
    return config.ray.start_timeout_s + SLACK * trajectory * longest / config.steps


@ray.remote
class JudgeActor:
    """Draws one piece after the other."""

    def __init__(self, config: Config, student: Path, inputs: JudgeInputs, threads: int) -> None:
        torch.set_num_threads(min(threads, usable_cores()))
        self._parts = config, student, inputs
        self._drawer: PieceDrawer | None = None

    def ready(self) -> None:
        """Answers once there is room for the actor."""

    def draw(self, piece: Piece) -> tuple[int, Drawn]:
        """Draws a piece; returns the number of its images first."""
        if self._drawer is None:  # not in the constructor, whose errors Ray hands on as text only
            self._drawer = PieceDrawer(*self._parts, "cuda" if ray.get_gpu_ids() else "cpu")
        return len(piece.images), self._drawer.draw(piece)


# As for the prompts of the run: no CPU is asked for, and what ended it once would end it again.
@ray.remote(num_cpus=0, max_retries=0)
def encoded_inputs(config: Config) -> tuple[int, JudgeInputs]:
    """`judge_inputs` away from the driver, behind their number; the text encoders leave with the task's process."""
    inputs = judge_inputs(config)
    return len(inputs.prompts), inputs


@ray.remote(num_cpus=0, max_retries=0)
def scored(config: Config, pieces: list[Piece], *drawn: Drawn) -> Judged:
    """`judged_run` away from the driver."""
    with all_threads():
        return judged_run(config, dict(zip(pieces, drawn, strict=True)))


def judged_on_ray(config: Config, student: Path, here: NodeAffinitySchedulingStrategy) -> Judged:
    """Judges teacher and student with a team of actors; no image comes to the driver.

    Args:
        config: The run's.
        student: The exported student, on a file system that all nodes share.
        here: The driver's node, which writes into the run folder.

    Raises:
        DeadlineError: if the workers hang.
        WorkerLostError: if they are lost again and again.
        RayTaskError: for whatever a worker does not expect.
    """
    pieces = pieces_of(config, student=True)
    team, limit = team_of(config, len(pieces)), patience_s(config, pieces)
    encoding: Handle = encoded_inputs.options(num_returns=2, num_gpus=config.rollout.num_gpus)
    prompts, inputs = encoding.remote(config)
    answer(prompts, "the encoding of the judge's prompts", limit)
    drawn = _drawn(config, student, inputs, pieces, team, limit)
    scoring: Handle = scored.options(name="judge", scheduling_strategy=here)
    return answer(scoring.remote(config, pieces, *drawn), "the judge's figures", VERDICT_S)


def _drawn(
    config: Config, student: Path, inputs: ray.ObjectRef, pieces: list[Piece], team: Team, limit: float
) -> list[ray.ObjectRef]:
    """What was drawn of each piece."""
    threads = max(config.rollout.threads, int(ray.cluster_resources().get("CPU", 1)) // team.actors)
    made: Handle = JudgeActor.options(num_cpus=team.num_cpus, num_gpus=team.num_gpus, scheduling_strategy="SPREAD")
    drawn: dict[Piece, ray.ObjectRef] = {}

    def begin(actor: Handle, piece: Piece) -> ray.ObjectRef:
        images, drawn[piece] = actor.draw.options(num_returns=2).remote(piece)
        return images

    done, images = 0, sum(len(piece.images) for piece in pieces)
    with (
        hired(lambda: made.remote(config, student, inputs, threads), team.actors) as actors,
        judge_progress() as progress,
    ):
        dealt = deal(actors, pieces, begin, lambda piece: piece.name, limit, lambda actor: actor.ready.remote())
        for _, count in dealt:
            done += count
            progress(done, images)
    return [drawn[piece] for piece in pieces]
