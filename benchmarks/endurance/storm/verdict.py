"""What must be true of a run that went through a storm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.endurance.storm.evidence import Evidence
from benchmarks.endurance.storm.hitting import TERMINATED

STREAMS = ("student", "discriminator")
SEAM = 3.0
"""A loss may step so many times as far where the run went back as it ever does elsewhere."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the verdict.

    Attributes:
        says: What must be true.
        holds: Whether it is.
        evidence: What was seen.
    """

    says: str
    holds: bool
    evidence: str


def verdict(seen: Evidence) -> list[Finding]:
    """Every line, in the order of a run's life."""
    judges: Sequence[Callable[[Evidence], Finding]] = (
        _settled, _counted, _aged, _verified, _recorded, _continuous, _ended, _gone, _left,
    )  # fmt: skip
    return [judge(seen) for judge in judges]


def _settled(seen: Evidence) -> Finding:
    wrong, position, again = misplaced(seen.settled)
    whole = not wrong and position == seen.cycles * seen.per_cycle
    what = wrong or f"0 to {position - 1}; went back {len(again)} times, by {sum(again)} ordinals in all"
    return Finding("every ordinal was settled once, in order, on the course that stands", whole, what)


def misplaced(settled: Sequence[Mapping[str, Any]]) -> tuple[str, int, list[int]]:
    """Follows what drivers wrote down of the ordinals that they settled.

    Args:
        settled: `{"begins": n, "beyond": []}` where loops begin, `{"settled": [...]}` for each cycle.

    Returns:
        What is wrong, empty if nothing is; the ordinal after the last one; how far the run went back each time.
    """
    position, again = 0, list[int]()
    for line in settled:
        if "begins" in line:
            if line["begins"] > position or line["beyond"]:
                return f"loops begin at {line['begins']} (beyond {line['beyond']}) after {position}", position, again
            again += [position - line["begins"]] if position > line["begins"] else []
            position = line["begins"]
        else:
            if line["settled"] != list(range(position, position + len(line["settled"]))):
                return f"{line['settled']} after {position}", position, again
            position += len(line["settled"])
    return "", position, again


def _counted(seen: Evidence) -> Finding:
    ordinals = seen.cycles * seen.per_cycle
    step, following, unsettled = (seen.frontier[name] for name in ("step", "next_ordinal", "unsettled"))
    # A run that was stopped has leases for groups of the next cycles.
    whole = not unsettled or seen.ends[-1].code == TERMINATED
    settled = following - len(unsettled)
    holds = whole and (step, settled, seen.trained) == (seen.cycles, ordinals, ordinals * seen.group_size)
    text = f"checkpoint {step}: next ordinal {following}, unsettled {unsettled}; {seen.trained:g} trajectories"
    return Finding("the last checkpoint and the counters say the same", holds, text)


def _aged(seen: Evidence) -> Finding:
    most, ordinals = max(seen.ages, default=0.0), seen.cycles * seen.per_cycle
    holds = most <= seen.age_cap and len(seen.ages) >= ordinals
    return Finding(
        "policy ages are within the cap", holds, f"{len(seen.ages)} groups, at most {most:g} of {seen.age_cap}"
    )


def _verified(seen: Evidence) -> Finding:
    loaded, verified, mismatched = (
        [seen.loads.get(f"advdmd_weights_{what}_total{{stream={stream}}}", 0.0) for stream in STREAMS]
        for what in ("loaded", "verified", "mismatched")
    )
    holds = loaded == verified and min(loaded) > 0 and max(mismatched) == 0
    text = f"{sum(verified):g} of {sum(loaded):g} loads, {sum(mismatched):g} differ"
    return Finding("every loaded snapshot was verified", holds, text)


def _recorded(seen: Evidence) -> Finding:
    wrong = []
    for objective, told in sorted(seen.losses.items()):
        cycles = [cycle for cycle, _ in told]
        # RL has turns of its own; the others learn in every cycle.
        missing = set() if objective == "rl" else set(range(1, seen.cycles + 1)) - set(cycles)
        twice = {cycle for cycle, after in pairwise(sorted(cycles)) if cycle == after}
        infinite = [cycle for cycle, value in told if value is None]
        if missing or twice or infinite:
            wrong.append(f"{objective}: missing {_few(missing)}, twice {_few(twice)}, not finite {_few(infinite)}")
    text = "; ".join(wrong) or f"{', '.join(sorted(seen.losses))} of {seen.cycles} cycles"
    return Finding("losses stand there once for each cycle, and are finite", bool(seen.losses) and not wrong, text)


def _continuous(seen: Evidence) -> Finding:
    seams = {line["begins"] // seen.per_cycle + 1 for line in seen.settled if "begins" in line}
    wrong, told = [], []
    for objective in ("fake_score", "discriminator"):
        losses = sorted((cycle, value) for cycle, value in seen.losses.get(objective, ()) if value is not None)
        steps = [(cycle, abs(value - before)) for (_, before), (cycle, value) in pairwise(losses)]
        at = max((step for cycle, step in steps if cycle in seams), default=0.0)
        elsewhere = max((step for cycle, step in steps if cycle not in seams), default=0.0)
        told.append(f"{objective}: {at:.3g} at a seam, {elsewhere:.3g} elsewhere")
        if at > SEAM * elsewhere or not steps:
            wrong.append(objective)
    return Finding("losses go on where the run went back as they do elsewhere", not wrong, "; ".join(told))


def _ended(seen: Evidence) -> Finding:
    strange = [f"driver {end.life}: exit code {end.code}" for end in seen.ends if not end.expected]
    text = "; ".join(strange) or f"{len(seen.ends)} drivers, the last with exit code {seen.ends[-1].code}"
    return Finding("no driver ended but by its own fault, and the last one at its last cycle", not strange, text)


def _gone(seen: Evidence) -> Finding:
    text = ", ".join(seen.stuck) or "none"
    return Finding("no process that was killed or stopped was left when the storm was over", not seen.stuck, text)


def _left(seen: Evidence) -> Finding:
    left = {kind: what for kind, what in seen.left.items() if what}
    text = "; ".join(f"{kind}: {what}" for kind, what in left.items()) or ", ".join(f"no {kind}" for kind in seen.left)
    return Finding("nothing of the run is left", not left, text)


def _few(cycles: Sequence[int] | set[int]) -> str:
    first = sorted(cycles)[:5]
    return f"{first}{f' and {len(cycles) - len(first)} more' if len(cycles) > len(first) else ''}" if cycles else "none"
