"""The stations of a run and what flows between them: rates, ages and counts."""

from dataclasses import dataclass

from advdmd_ray.evaluation.words import duration, figure, size_text
from advdmd_ray.runs.page.record import Record


@dataclass(frozen=True, slots=True)
class Station:
    """A station.

    Attributes:
        name: For a reader.
        does: What it does, in a few words.
        busy: Share of its workers' time at work, in [0, 1]; None: not recorded.
        facts: Name and value of what is known of it.
        onward: What goes on to the next, a figure and its unit; both empty: nothing is known.
    """

    name: str
    does: str
    busy: float | None
    facts: tuple[tuple[str, str], ...]
    onward: tuple[str, str] = ("", "")


def flow(record: Record) -> tuple[Station, ...]:
    """Rollout actors, reward workers, buffer, learner and weights, in the order in which a group passes them."""
    return (_rollout(record), _reward(record), _buffer(record), _learner(record), _weights(record))


def busy(record: Record, role: str) -> float | None:
    """Share of a role's time at work over the time that its rates are of."""
    spent = {
        state: record.rates.get(f"advdmd_run_role_seconds_total{{role={role},state={state}}}", 0.0)
        for state in ("busy", "waiting", "blocked", "down")
    }
    total = sum(spent.values())
    return spent["busy"] / total if total > 0 else None


def _rollout(record: Record) -> Station:
    figures = record.figures
    rate = record.rates.get("advdmd_rollout_trajectories_total", 0.0)
    facts = _known(
        _alive(record, "rollout"),
        ("trajectories", _count(record, "advdmd_rollout_trajectories_total")),
        ("leases out", _gauge(record, "advdmd_rollout_leases_outstanding")),
    )
    groups = figures.one("advdmd_rollout_groups_total")
    onward = (figure(rate), "trajec\N{SOFT HYPHEN}tories a second") if groups else ("", "")
    return Station("Rollout actors", "sample trajectories with the student", busy(record, "rollout"), facts, onward)


def _reward(record: Record) -> Station:
    rate = record.rates.get("advdmd_reward_groups_total", 0.0)
    facts = _known(
        _alive(record, "reward"),
        ("groups scored", _count(record, "advdmd_reward_groups_total")),
    )
    onward = (figure(rate), "groups a second") if record.figures.one("advdmd_reward_groups_total") else ("", "")
    return Station("Reward workers", "score every state", busy(record, "reward"), facts, onward)


def _buffer(record: Record) -> Station:
    figures = record.figures
    held, room = figures.one("advdmd_buffer_bytes"), figures.one("advdmd_buffer_capacity_bytes")
    ages = [figures.rows(f"advdmd_buffer_{kind}_age_last") for kind in ("policy", "reward")]
    facts = _known(
        ("groups held", _gauge(record, "advdmd_buffer_groups")),
        ("bytes", f"{size_text(held)} of {size_text(room)}" if room else ""),
        ("committed", _count(record, "advdmd_buffer_commits_total")),
    )
    known = [f"{values[0][1]:.0f}" for values in ages if values]
    onward = (" / ".join(known), "versions old: policy, reward") if known else ("", "")
    return Station("Buffer", "holds scored groups", None, facts, onward)


def _learner(record: Record) -> Station:
    rate = record.rates.get("advdmd_learner_trajectories_trained_total", 0.0)
    updates = record.figures.by("advdmd_learner_updates_total", "objective")
    seconds = record.series.get("advdmd_learner_cycle_seconds")
    facts = _known(
        _alive(record, "learner"),
        ("cycle", f"{record.cycle:,} of {record.planned:,}" if record.planned else ""),
        ("a cycle takes", duration(float(seconds.values[-1])) if seconds is not None else ""),
        ("updates", f"{sum(updates.values()):,.0f}" if updates else ""),
    )
    onward = (f"{record.cycle:,}", "newest version") if record.cycle else ("", "")
    does = f"learns from {figure(rate)} trajectories/s" if rate else "trains three networks"
    return Station("Learner", does, busy(record, "learner"), facts, onward)


def _weights(record: Record) -> Station:
    figures = record.figures
    sizes = figures.by("advdmd_weights_snapshot_bytes", "stream")
    verified = sum(figures.by("advdmd_weights_verified_total", "stream").values())
    mismatched = sum(figures.by("advdmd_weights_mismatched_total", "stream").values())
    facts = _known(
        *((stream, size_text(size)) for stream, size in sizes.items()),
        ("loads verified", f"{verified:,.0f}" if verified else ""),
        ("loads that differ", f"{mismatched:,.0f}" if verified else ""),
        ("oldest in use", _oldest(record)),
    )
    return Station("Weights", "back to actors and reward workers", None, facts)


def _oldest(record: Record) -> str:
    """How far behind the newest version the slowest worker's last load is."""
    published = record.figures.by("advdmd_weights_published_version", "stream")
    behind = [
        published[labels["stream"]] - value
        for labels, value in record.figures.rows("advdmd_weights_worker_version")
        if labels["stream"] in published
    ]
    return (f"{max(behind):.0f} behind" if max(behind) else "newest") if behind else ""


def _alive(record: Record, role: str) -> tuple[str, str]:
    alive = record.figures.by("advdmd_run_workers", "role")
    name = "ranks" if role == "learner" else "workers"
    return (f"{name} up" if record.state == "running" else name, f"{alive[role]:.0f}" if role in alive else "")


def _count(record: Record, name: str) -> str:
    value = record.figures.one(name)
    return f"{value:,.0f}" if value else ""


def _gauge(record: Record, name: str) -> str:
    found = record.figures.rows(name)
    return f"{found[0][1]:,.0f}" if found else ""


def _known(*facts: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in facts if value)
