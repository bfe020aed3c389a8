"""What was done, by whom and on what: small tables of a page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from advdmd_ray.evaluation.words import duration, figure
from advdmd_ray.runs.page.names import OBJECTIVES, ROLES, dropped_name, fact_name, level_name, plain, worker_name
from advdmd_ray.runs.page.record import Record

_STATES = ("busy", "waiting", "blocked", "down")
_STREAMS = ("student", "discriminator")
_NONE = "\N{EN DASH}"
_MOST_WORKERS = 24


@dataclass(frozen=True, slots=True)
class Card:
    """A small table.

    Attributes:
        title: What it is about.
        rows: Cells of each row, the first its name.
        heads: Above the columns; empty: none.
        bad: Places `(row, column)` of cells that should not be so.
    """

    title: str
    rows: tuple[tuple[str, ...], ...]
    heads: tuple[str, ...] = ()
    bad: frozenset[tuple[int, int]] = frozenset()


def cards(record: Record) -> list[Card]:
    """Those that have something to show."""
    made = (
        _updates(record),
        _trajectories(record),
        _auc(record),
        _weights(record),
        _workers(record),
        _time(record),
        _roles(record),
        *_made_on(record),
    )
    return [card for card in made if card.rows]


def _updates(record: Record) -> Card:
    counts = record.figures.by("advdmd_learner_updates_total", "objective")
    return Card("Updates", tuple((OBJECTIVES[key], f"{counts[key]:,.0f}") for key in OBJECTIVES if key in counts))


def _trajectories(record: Record) -> Card:
    figures = record.figures
    if not figures.rows("advdmd_learner_trajectories_trained_total"):
        return Card("Trajectories", ())
    dropped = figures.by("advdmd_buffer_dropped_groups_total", "reason")
    left_out = {
        "groups_too_old": dropped.get("age", 0),
        "groups_lost": dropped.get("lost", 0),
        "stale_actions": figures.one("advdmd_learner_rl_terms_dropped_total"),
    }
    rows = [("learned from", f"{figures.one('advdmd_learner_trajectories_trained_total'):,.0f}")]
    rows += [(f"left out: {dropped_name(key)}", f"{count:,.0f}") for key, count in left_out.items()]
    if record.summary is not None and record.summary.ratio_deviation is not None:
        rows.append(("largest |ratio \N{MINUS SIGN} 1| at equal weights", figure(record.summary.ratio_deviation)))
    return Card("Trajectories", tuple(rows))


def _auc(record: Record) -> Card:
    now = record.figures.by("advdmd_learner_discriminator_auc", "level")
    levels = sorted(now, key=int)
    heads = ("level", "last", "mean while RL ran", "lowest")
    ranges = {} if record.summary is None else record.summary.discriminator.auc_while_rl
    rows = [
        (
            level_name(level, levels),
            f"{now[level]:.3f}",
            f"{ranges[int(level)].mean:.3f}" if int(level) in ranges else _NONE,
            f"{ranges[int(level)].min:.3f}" if int(level) in ranges else _NONE,
        )
        for level in levels
    ]
    return Card("Discriminator, held-out AUC", tuple(rows), heads if rows else ())


def _weights(record: Record) -> Card:
    names = {"published": "published", "verified": "loads verified", "mismatched": "loads that differ"}
    counts = {name: record.figures.by(f"advdmd_weights_{name}_total", "stream") for name in names}
    if not counts["published"]:
        return Card("Weights", ())
    rows = [(stream, *(f"{counts[name].get(stream, 0):,.0f}" for name in names)) for stream in _STREAMS]
    bad = {(place, 3) for place, stream in enumerate(_STREAMS) if counts["mismatched"].get(stream, 0)}
    return Card("Weights", tuple(rows), ("stream", *names.values()), frozenset(bad))


def _workers(record: Record) -> Card:
    versions: dict[str, dict[str, float]] = {}
    for labels, value in record.figures.rows("advdmd_weights_worker_version"):
        versions.setdefault(labels["worker"], {})[labels["stream"]] = value
    rows = [
        (worker_name(worker), ", ".join(f"{stream} {version:.0f}" for stream, version in own.items()))
        for worker, own in sorted(versions.items())[:_MOST_WORKERS]
    ]
    if len(versions) > _MOST_WORKERS:
        rows.append((f"and {len(versions) - _MOST_WORKERS:,} more", ""))
    return Card("Version that each worker has", tuple(rows))


def _time(record: Record) -> Card:
    rows = list[tuple[str, str]]()
    if record.summary is not None:
        resumed = any(fault.lane == "resume" for fault in record.faults)
        names = {"setup": "start", "train": "training since it went on" if resumed else "training", "judge": "judge"}
        rows = [(names[part], duration(seconds)) for part, seconds in record.summary.seconds]
    elif record.figures.rows("advdmd_run_elapsed_seconds"):
        rows = [("training so far", duration(record.figures.one("advdmd_run_elapsed_seconds")))]
        if record.state == "running" and record.figures.rows("advdmd_run_remaining_seconds"):
            rows.append(("about to come", duration(record.figures.one("advdmd_run_remaining_seconds"))))
    return Card("Time", tuple(rows))


def _roles(record: Record) -> Card:
    spent: dict[str, dict[str, float]] = {}
    for labels, value in record.figures.rows("advdmd_run_role_seconds_total"):
        spent.setdefault(labels["role"], {})[labels["state"]] = value
    rows = [
        (ROLES.get(role, role), *(duration(states.get(state, 0.0)) for state in _STATES))
        for role, states in spent.items()
    ]
    return Card("Time of the workers", tuple(rows), ("role", *_STATES) if rows else ())


def _made_on(record: Record) -> Iterable[Card]:
    if record.summary is None:
        return
    yield Card("Machine", _pairs({fact_name(key): value for key, value in record.summary.machine.items()}))
    commit = record.summary.commit
    dirty = ", with changes" if commit.endswith("-dirty") else ""
    versions: dict[str, str] = {**record.summary.versions, "commit": f"{commit[:12]}{dirty}"}
    yield Card("Versions", _pairs(versions))


def _pairs(facts: Mapping[str, str | int | float]) -> tuple[tuple[str, str], ...]:
    return tuple((plain(key), str(value)) for key, value in facts.items())
