"""What a run will do, by the real controller over virtual workers: pace, idle shares, ages and bytes held."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from advdmd_ray.config import Config
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.loop import Controller
from advdmd_ray.controller.protocols import Reference
from advdmd_ray.metrics.series import Sample
from advdmd_ray.planning.virtual import Costs, VirtualClock, VirtualShell
from advdmd_ray.stations.buffer.index import BufferIndex, CommitResult
from advdmd_ray.stations.records import GroupInfo
from advdmd_ray.stations.weights.store import WeightStore

SETTLED_GROUPS = 3000
"""Groups that the part which counts is made of, within these bounds of its cycles."""
FEWEST_CYCLES, MOST_CYCLES = 4, 20
NEVER = 10**9
"""Of seconds and cycles: none of it in a forecast."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A run between its chores, after it has got going.

    Attributes:
        cycle_s: Seconds a cycle.
        trajectories_per_s: Trajectories that are learned from.
        shares: By role, the share of its workers' time that is busy, waiting for work, or blocked by a cap; each
            role's add up to 1.
        age_mean: Learner version minus policy version of the groups taken.
        age_max: The largest of them.
        buffer_bytes: Most bytes of groups that were held at a time.
    """

    cycle_s: float
    trajectories_per_s: float
    shares: Mapping[str, Mapping[str, float]]
    age_mean: float
    age_max: int
    buffer_bytes: int


class Ledger:
    """Hub that adds up what the cycles after the first ones were spent on.

    Args:
        warm: The version after which it counts.
    """

    def __init__(self, warm: int) -> None:
        self._warm = warm
        self.ends: dict[int, float] = {}
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.ages: list[float] = []

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        """See `Hub`; the seconds of a cycle come with the version that it made, and its end."""
        version = cycle or 0
        # A version's end is told once: what comes later under it belongs to the end of the run.
        counts = version > self._warm and version not in self.ends
        for sample in samples:
            if sample.name == "advdmd_run_elapsed_seconds":
                self.ends.setdefault(version, sample.value)
            elif sample.name == "advdmd_run_role_seconds_total" and counts:
                labels = dict(sample.labels)
                self.seconds[labels["role"], labels["state"]] += sample.value
            elif sample.name == "advdmd_buffer_policy_age" and version >= self._warm:
                self.ages.append(sample.value)


class MeasuredBuffer(BufferIndex[Reference]):
    """A buffer that remembers the most it held."""

    most = 0

    def commit(self, info: GroupInfo, reference: Reference) -> CommitResult:
        """See `BufferIndex`."""
        result = super().commit(info, reference)
        self.most = max(self.most, self.stats().bytes)
        return result


def forecast(config: Config, costs: Costs, *, group_bytes: int) -> Forecast:
    """Runs the real controller in virtual time.

    Args:
        config: Workers, groups, caps.
        costs: Seconds of the work.
        group_bytes: Size of a scored group.

    Raises:
        ValueError: if no work takes any time.
    """
    unit = max(costs.seconds)
    if unit <= 0:
        raise ValueError("a forecast needs work that takes time")
    # In units of the longest work: an hour costs as many turns of the loop as a second.
    scaled = Costs(*(seconds / unit for seconds in costs.seconds), spread=costs.spread, alone=costs.alone)
    groups, age = config.rollout.groups_per_cycle, config.rollout.max_policy_age
    warm = age + 2
    cycles = warm + max(FEWEST_CYCLES, min(MOST_CYCLES, SETTLED_GROUPS // groups))
    run = _endless(config, cycles)
    clock, ledger = VirtualClock(), Ledger(warm)
    buffer = MeasuredBuffer(max_bytes=run.buffer.max_bytes, max_policy_age=age)
    Controller(
        run,
        frontier=PromptFrontier(0, 1, float(NEVER)),
        buffer=buffer,
        store=WeightStore(),
        hub=ledger,
        shell=VirtualShell(run, scaled, clock, group_bytes=group_bytes, prompts=1),
        group_bytes=group_bytes,
        clock=clock,
    ).run()
    cycle_s = unit * (ledger.ends[cycles] - ledger.ends[warm]) / (cycles - warm)
    return Forecast(
        cycle_s=cycle_s,
        trajectories_per_s=groups * run.rollout.group_size / cycle_s,
        shares=_shares(ledger.seconds),
        age_mean=fmean(ledger.ages),
        age_max=int(max(ledger.ages)),
        buffer_bytes=buffer.most,
    )


def _endless(config: Config, cycles: int) -> Config:
    """The run in its last phase, without chores and deadlines."""
    sections = {
        "run": {"cycles": cycles, "time_limit_s": None},
        "rollout": {"group_size": config.last_group_size, "warm_group_size": None},
        "buffer": {"take_timeout_s": float(NEVER)},
        "learner": {"cycle_timeout_s": float(NEVER), "checkpoint_cycles": NEVER},
        "evaluation": {"grid_cycles": 0, "judge_cycles": 0},
        "validation": {"prompts": None},
        "ray": {"hang_s": float(NEVER)},
    }
    parts = dict(config)
    return config.model_copy(update={name: parts[name].model_copy(update=new) for name, new in sections.items()})


def _shares(seconds: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    roles = dict.fromkeys(role for role, _ in seconds)
    totals = {role: sum(value for (of, _), value in seconds.items() if of == role) for role in roles}
    states = ("busy", "waiting", "blocked")
    return {role: {state: seconds.get((role, state), 0.0) / totals[role] for state in states} for role in roles}
