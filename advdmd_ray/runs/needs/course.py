"""The course of a run: what learns from which cycle on, and what never will."""

from collections.abc import Iterator
from dataclasses import dataclass

from advdmd_ray.config import Config
from advdmd_ray.config.rewards import best_evidence

RL = "RL"


@dataclass(frozen=True, slots=True)
class Begin:
    """When something begins that waits for DMD updates.

    Attributes:
        what: Waits.
        setting: Says for how many.
        updates: So many.
        then: What else its beginning hangs on, and how often it then is.
    """

    what: str
    setting: str
    updates: int
    then: str


def begins(config: Config) -> Iterator[Begin]:
    """All that a run has and that waits, in the order in which it may begin."""
    cadence = config.cadence
    if config.dmd.gan_weight > 0:
        yield Begin("GAN term", "cadence.warm_gan_updates", cadence.warm_gan_updates, "")
    if config.policy_gradient.enabled:
        gate = ", once a level is open" if config.reward.needs_open_level else ""
        turns = "each cycle" if cadence.ramp_interval == 1 else f"at first every {cadence.ramp_interval} DMD updates"
        yield Begin(RL, "cadence.warm_dmd_updates", cadence.warm_dmd_updates, f"{gate}, {turns}")


def course_text(config: Config) -> str:
    """A line for each that waits; cycles are counted from 1."""
    cycles, each = config.run.cycles, config.cadence.dmd_updates
    lines = [f"course, {cycles:,} cycles with {each} DMD update{'s' * (each > 1)} each"]
    for begin in begins(config):
        why, before = _too_late(begin, config), config.cadence.cycles_before(begin.updates)
        when = f"never: {why}" if why else f"from cycle {before + 1:,} on{begin.then}"
        lines.append(f"  {begin.what:<9}  {when}")
    if why := _deaf_alarm(config):
        lines.append(f"  alarm      never rings: {why}")
    return "\n".join([*lines, ""])


def never(config: Config) -> Iterator[str]:
    """Of each that waits longer than the run lasts, one line that says so; and of scores that RL never hears."""
    for begin in begins(config):
        if why := _too_late(begin, config):
            yield f"{begin.what} never begins in this run: {why}"
    if config.policy_gradient.enabled and config.reward.extra is not None and config.rewarded_by == "discriminator":
        why = config.unheard or _never_open(config)
        if why is not None:
            yield f"RL learns from reward.extra alone in this run, and from no score of the discriminator: {why}"


def _too_late(begin: Begin, config: Config) -> str | None:
    """Why it never begins; None if it does."""
    made = config.run.cycles * config.cadence.dmd_updates
    if begin.what == RL and config.reward.needs_open_level and (why := _never_open(config)):
        return why
    if config.cadence.cycles_before(begin.updates) < config.run.cycles:
        return None
    return f"{begin.setting} is {begin.updates:,}, and run.cycles={config.run.cycles} makes {made:,} DMD updates"


def _never_open(config: Config) -> str | None:
    """Why no level of the discriminator is ever open; None if one may be."""
    seldom, cycles, errors = config.cadence.measure_cycles, config.run.cycles, config.discriminator.text_errors
    measurements = cycles // seldom
    if not measurements:
        return f"cadence.measure_cycles is {seldom:,}, and no level is open before: run.cycles={cycles}"
    most = best_evidence(config.rollout.groups_per_cycle, config.discriminator.auc_decay, measurements)
    if errors is None or errors < most:
        return None
    often = "1 measurement" if measurements == 1 else f"{measurements:,} measurements"
    return (
        f"discriminator.text_errors is {errors:g}, and one that tells all texts apart comes to {most:.3g} in {often}: "
        f"run.cycles={cycles}, cadence.measure_cycles={seldom}"
    )


def _deaf_alarm(config: Config) -> str | None:
    """Why the alarm for reward hacking never rings though something is judged for it; None if it may."""
    every = config.validates_every if config.alarm_hears_validation else config.evaluation.judge_cycles
    if not every or not config.policy_gradient.enabled:
        return None
    heard = config.run.cycles // every - config.cadence.warm_cycles // every
    if heard >= config.evaluation.alarm_window:
        return None
    which = "validation.cycles" if config.alarm_hears_validation else "evaluation.judge_cycles"
    return (
        f"{which}={every} gives {max(heard, 0)} of evaluation.alarm_window={config.evaluation.alarm_window} judgements "
        "after RL may begin"
    )
