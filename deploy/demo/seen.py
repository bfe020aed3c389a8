"""What Prometheus has of the run, both of its jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.demo.prometheus import Curve, Prometheus
from deploy.demo.story import NAME


@dataclass(frozen=True, slots=True)
class Seen:
    """All scrapes of some series of the run, each a curve for every job.

    Attributes:
        runs: Values of the label `run` that Prometheus knows.
        lives: The endpoints at which it found the run, the first job's first.
        reward: Mean rewards, by level.
        actors: Rollout actors that are up.
        commits: Groups that the buffer took so far; after a stop also those that are made anew.
        trained: Trajectories that the learner took so far.
        cycles: Of the learner, so far.
        outcomes: How each job ended, as it said.
    """

    runs: Sequence[str]
    lives: Sequence[str]
    reward: Mapping[int, Sequence[Curve]]
    actors: Sequence[Curve]
    commits: Sequence[Curve]
    trained: Sequence[Curve]
    cycles: Sequence[Curve]
    outcomes: Sequence[str]


def seen(server: Prometheus, window_s: int) -> Seen:
    """Asks for the last seconds."""

    def curves(name: str, labels: str = "") -> list[Curve]:
        return server.curves(f'{name}{{run="{NAME}"{labels}}}', window_s)

    reward: dict[int, list[Curve]] = {}
    for curve in curves("advdmd_reward_mean"):
        reward.setdefault(int(curve.labels["level"]), []).append(curve)
    return Seen(
        runs=server.ask("label/run/values"),
        lives=[curve.labels["instance"] for curve in curves("advdmd_run_info")],
        reward=dict(sorted(reward.items())),
        actors=curves("advdmd_run_workers", ',role="rollout"'),
        commits=curves("advdmd_buffer_commits_total"),
        trained=curves("advdmd_learner_trajectories_trained_total"),
        cycles=curves("advdmd_run_cycle"),
        outcomes=[curve.labels["outcome"] for curve in curves("advdmd_run_finished")],
    )


def at(curves: Sequence[Curve], time: float) -> float:
    """The last value before a time; 0 if there is none."""
    before = [point for curve in curves for point in curve.points if point[0] <= time]
    return max(before, default=(0.0, 0.0))[1]
