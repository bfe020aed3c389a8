"""The judge on Ray: what it is to see is drawn by many workers, at the end of a run by as many as that had room for."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import ray
import torch

from advdmd_ray.config import Config
from advdmd_ray.diffusion.threads import threads
from advdmd_ray.provenance import usable_cores
from advdmd_ray.runs.figures import Figures
from advdmd_ray.runs.finish import Judged, judged_run
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.judgement import Drawn, JudgeInputs, Piece, PieceDrawer, calls, judge_inputs, pieces_of
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runs.needs.node_roles import ANY_ROLE
from advdmd_ray.runs.parts.networks import import_networks
from advdmd_ray.runs.verdict import drawing_threads
from advdmd_ray.runtime.aside import Aside
from advdmd_ray.runtime.calls import PULSE, Handle
from advdmd_ray.runtime.counting import judge_progress
from advdmd_ray.runtime.dealing import deal, hired
from advdmd_ray.runtime.places import Places
from advdmd_ray.runtime.pulsed import Pulsed
from advdmd_ray.runtime.team import Team, team_of

ENCODING_THREADS = 1
"""At the end of a run, of the task that encodes the judge's prompts, as of those that encode the run's."""
VERDICT_S = 1800.0
"""The figures of what was drawn: features are small, and no network runs."""
SLACK = 10
"""A piece may take so many times as long as its calls of the network took in the rollout actors."""


def patience_s(config: Config, pieces: list[Piece], *, elsewhere: bool = False) -> float:
    """Seconds within which some piece is done unless the workers hang.

    What the longest piece's calls of the network would take at the pace of the rollout actors, ten times, and the time
    that a worker may take to start. Where nothing was measured, a group takes all of its lease.

    Args:
        config: The run's.
        pieces: What is to be drawn.
        elsewhere: Whether other machines than the run's may draw, whose pace is not known: a lease's time is the least.
    """
    figures = Figures.of(config)
    trajectories = figures.one("advdmd_rollout_trajectories_total")
    busy = sum(
        value
        for labels, value in figures.rows("advdmd_run_role_seconds_total")
        if (labels["role"], labels["state"]) == ("rollout", "busy")
    )
    measured = busy / trajectories if trajectories else 0.0
    leased = config.rollout.lease_s / config.rollout.group_size
    trajectory = max(measured, leased) if elsewhere else measured or leased
    longest = max(calls(config, piece) for piece in pieces)
    return config.ray.start_timeout_s + SLACK * trajectory * longest / config.steps


@ray.remote(concurrency_groups={PULSE: 1})  # pyright: ignore[reportCallIssue]
class JudgeActor(Pulsed):
    """Draws one piece after the other.

    Args:
        config: See `PieceDrawer`.
        student: The same.
        inputs: The same.
        count: Threads; None: those of a judgement in one process.
    """

    def __init__(self, config: Config, student: Path | None, inputs: JudgeInputs, count: int | None) -> None:
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        torch.set_num_threads(drawing_threads(self._device) if count is None else min(count, usable_cores()))
        self._parts = config, student, inputs
        self._drawer: PieceDrawer | None = None

    def ready(self, mark: Mark | None) -> None:
        """Answers once there is room for the actor.

        Raises:
            UserError: if it does not see the folder that has the student.
        """
        if mark is not None:
            mark.check_seen("a worker that judges")

    def draw(self, piece: Piece) -> tuple[int, Drawn]:
        """Draws a piece; returns the number of its images first."""
        if self._drawer is None:  # not in the constructor, whose errors Ray hands on as text only
            import_networks(self._parts[0], whole=True)
            self._drawer = PieceDrawer(*self._parts, self._device)
        return len(piece.images), self._drawer.draw(piece)


def encoded_inputs(config: Config, count: int | None) -> tuple[int, JudgeInputs]:
    """`judge_inputs` behind their number, in a process of its own, with which the text encoders leave."""
    import_networks(config, whole=True)
    with threads(drawing_threads("cuda" if ray.get_gpu_ids() else "cpu") if count is None else count):
        inputs = judge_inputs(config)
    return len(inputs.prompts), inputs


def scored(config: Config, pieces: list[Piece], *drawn: Drawn) -> Judged:
    """`judged_run` with all cores, away from the driver."""
    with threads(usable_cores()):
        return judged_run(config, dict(zip(pieces, drawn, strict=True)))


def judged_on_ray(config: Config, student: Path, beside: Aside, places: Places) -> Judged:
    """Judges teacher and student with a team of actors; no image comes to the driver.

    Args:
        config: The run's.
        student: The exported student, in the run folder. A worker that does not see that is left out.
        beside: A process on the driver's node, which writes into the run folder.
        places: Where the workers may be: where those of any role may, whose room they take.

    Raises:
        DeadlineError: if the workers hang.
        WorkerLostError: if they are lost again and again.
        UserError: if none of them sees the run folder.
        RayTaskError: for whatever a worker does not expect.
    """
    pieces = pieces_of(config, student=True)
    team = team_of(config, len(pieces))
    count = max(config.rollout.threads, int(ray.cluster_resources().get("CPU", 1)) // team.actors)
    mark = RunFolder(config.folder).mark()
    drawn = drawn_by(team, config, student, pieces, patience_s(config, pieces), count, mark, places)
    judged, _ = beside.do(scored, config, pieces, *drawn, what="the judge's figures", limit_s=VERDICT_S)
    return judged


def drawn_by(
    team: Team,
    config: Config,
    student: Path | None,
    pieces: list[Piece],
    limit: float,
    count: int | None = None,
    mark: Mark | None = None,
    places: Places | None = None,
) -> list[ray.ObjectRef]:
    """Has the pieces drawn by a team of actors, once one task has encoded the judge's prompts.

    Args:
        team: So many actors.
        config: See `PieceDrawer`.
        student: The same.
        pieces: All of a judgement.
        limit: Seconds within which some piece must be done.
        count: Threads of an actor; None: those of a judgement in one process.
        mark: Of the folder that has the student, which an actor must see, if this process holds it.
        places: Where the actors may be; None: wherever there is room.

    Returns:
        What was drawn of each piece, where it is.

    Raises:
        DeadlineError: if the workers hang.
        WorkerLostError: if they are lost again and again.
        UserError: if none of them sees the folder.
        RayTaskError: for whatever a worker does not expect.
    """
    encodes, draws = ({} if places is None else places.options(role) for role in ("rollout", ANY_ROLE))
    room = {"num_gpus": min(team.num_gpus, config.rollout.num_gpus), **encodes}
    inputs = _encoded_aside(config, room, None if count is None else ENCODING_THREADS, limit)
    kind: Handle = JudgeActor
    made = kind.options(num_cpus=team.num_cpus, num_gpus=team.num_gpus, scheduling_strategy="SPREAD", **draws)
    drawn: dict[Piece, ray.ObjectRef] = {}

    def begin(actor: Handle, piece: Piece) -> ray.ObjectRef:
        images, drawn[piece] = actor.draw.options(num_returns=2).remote(piece)
        return images

    done, images = 0, sum(len(piece.images) for piece in pieces)
    with (
        hired(lambda: made.remote(config, student, inputs, count), team.actors) as actors,
        judge_progress() as progress,
    ):
        dealt = deal(actors, pieces, begin, lambda piece: piece.name, limit, lambda actor: actor.ready.remote(mark))
        for _, number in dealt:
            done += number
            progress(done, images)
    return [drawn[piece] for piece in pieces]


def _encoded_aside(config: Config, room: Mapping[str, Any], count: int | None, limit: float) -> ray.ObjectRef:
    """Where the inputs of the judge are, which a task with this room of Ray's has encoded; see `drawn_by`."""
    with closing(Aside(lambda: room)) as encoder:
        what = "the encoding of the judge's prompts"
        _, (inputs,) = encoder.do(encoded_inputs, config, count, what=what, limit_s=limit, returns=2)
    return inputs
