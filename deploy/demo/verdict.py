"""What must be true of what Prometheus has seen."""

from collections.abc import Sequence

from benchmarks.endurance.storm.verdict import Finding
from deploy.demo.seen import Seen, at
from deploy.demo.story import FEW, MORE, NAME, Events

MINUTE_S = 60.0
JOBS = 2


def verdict(seen: Seen, events: Events, per_cycle: int, levels: int) -> list[Finding]:
    """Every line, in the order of the run's life.

    Args:
        seen: By Prometheus.
        events: Of the story.
        per_cycle: Trajectories of a cycle.
        levels: Of the reward.
    """
    return [
        _lives(seen),
        _scaled(seen, events),
        _stopped(seen),
        _counted(seen, events, per_cycle),
        _drawn(seen, levels),
    ]


def _lives(seen: Seen) -> Finding:
    holds = list(seen.runs) == [NAME] and len(set(seen.lives)) == len(seen.lives) == JOBS
    text = f"run={', '.join(seen.runs)} at {' then '.join(seen.lives)}"
    return Finding("Prometheus found both jobs by their files, as one run", holds, text)


def _scaled(seen: Seen, events: Events) -> Finding:
    early = {value for curve in seen.actors for at_s, value in curve.points if at_s < events.asked and value > 0}
    late = at(seen.actors, events.stopped)
    text = (
        f"{', '.join(f'{count:g}' for count in sorted(early))} actor before, {late:g} after {_seconds(events)} s; "
        f"{_pace(seen, events.submitted, events.asked)} groups a minute before, "
        f"{_pace(seen, events.scaled, events.stopped)} after"
    )
    return Finding("actors came while it trained", early == {FEW} and late == MORE, text)


def _seconds(events: Events) -> str:
    return f"{events.scaled - events.asked:.0f}"


def _pace(seen: Seen, since: float, until: float) -> str:
    """Groups a minute between the first group and a time, or between two times."""
    scrapes = [point for curve in seen.commits for point in curve.points]
    points = [(at_s, count) for at_s, count in scrapes if since <= at_s <= until and count > 0]
    if not points or points[0] == points[-1]:
        return "too few to tell"
    (first, before), (last, after) = points[0], points[-1]
    return f"{MINUTE_S * (after - before) / (last - first):.0f}"


def _stopped(seen: Seen) -> Finding:
    text = ", then ".join(seen.outcomes)
    return Finding("each job said how it ended", list(seen.outcomes) == ["stopped", "completed"], text)


def _counted(seen: Seen, events: Events, per_cycle: int) -> Finding:
    cycles, total = at(seen.cycles, events.ended), at(seen.trained, events.ended)
    scaled, saved = at(seen.trained, events.asked), at(seen.trained, events.saved)
    text = (
        f"{scaled:g} trajectories trained when it was scaled, {saved:g} when it was stopped at cycle {events.cycle}, "
        f"{total:g} at the end: {cycles:g} cycles of {per_cycle}"
    )
    holds = 0 < scaled < saved == events.cycle * per_cycle < total == cycles * per_cycle
    return Finding("the second job went on where the first had stopped, and counted everything once", holds, text)


def _drawn(seen: Seen, levels: int) -> Finding:
    points = {level: [len(curve.points) for curve in curves] for level, curves in seen.reward.items()}
    holds = [*points] == [*range(1, levels + 1)] and all(len(of_jobs) == JOBS for of_jobs in points.values())
    counts: Sequence[int] = [sum(of_jobs) for of_jobs in points.values()]
    text = f"{len(points)} levels, {min(counts, default=0)} to {max(counts, default=0)} scrapes of each"
    return Finding("the reward's curve runs through both jobs", holds, text)
