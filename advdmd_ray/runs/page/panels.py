"""The panels of a page: what each shows, what is healthy there, and its lines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from advdmd_ray.config import Config
from advdmd_ray.evaluation.pictures.series import Curve, by_label
from advdmd_ray.metrics.catalogue import LABEL_VALUES
from advdmd_ray.metrics.series import parse_key
from advdmd_ray.runs.page.names import OBJECTIVES, ROLES, figure_name, level_name, plain

_LARGEST_SHARE = 3.0
"""A judge's figure that passes it is a distance, no share or ratio."""
_AGREEMENT = "advdmd_learner_text_agreement"

Series = Mapping[str, Curve]
Form = Literal["number", "share", "bytes", "seconds"]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of a panel.

    Attributes:
        label: Its name.
        curve: Its points.
        dashed: Whether it is broken.
        main: Whether it is shown at first where several runs are compared.
        hue: Place of its colour, where it has the same in several panels; None: its place among the lines.
    """

    label: str
    curve: Curve
    dashed: bool = False
    main: bool = True
    hue: int | None = None


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of a panel's scale that means something.

    Attributes:
        low: Its lower edge.
        high: Its upper edge; equal to `low`: a line.
        label: What it means.
        bad: Whether curves should stay out of it.
    """

    low: float
    high: float
    label: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """What a panel shows.

    Attributes:
        key: Tells it from others.
        title: Its name.
        what: What it is, in one line.
        healthy: What is healthy, in one line.
        lines: Those of a run.
        names: The series that `lines` looks at.
        form: How values are written.
        log: Whether the scale is logarithmic.
        smooth: Whether a moving mean helps.
        bars: Whether lines are bars, there where they have values.
        bands: Of a configuration.
        span: Values that the scale always holds.
    """

    key: str
    title: str
    what: str
    healthy: str
    lines: Callable[[Series], list[Line]]
    names: tuple[str, ...]
    form: Form = "number"
    log: bool = False
    smooth: bool = False
    bars: bool = False
    bands: Callable[[Config], list[Band]] = lambda _: []
    span: tuple[float, float] | None = None


def _levels(name: str) -> Callable[[Series], list[Line]]:
    def lines(series: Series) -> list[Line]:
        found = by_label(series, name, "level")
        return [
            Line(level_name(level, list(found)), curve, main=level == list(found)[-1]) for level, curve in found.items()
        ]

    return lines


def _objectives(name: str, *wanted: str) -> Callable[[Series], list[Line]]:
    hues = list(OBJECTIVES)

    def lines(series: Series) -> list[Line]:
        found = by_label(series, name, "objective")
        return [Line(OBJECTIVES[key], found[key], hue=hues.index(key)) for key in wanted if key in found]

    return lines


def _one(*named: tuple[str, str]) -> Callable[[Series], list[Line]]:
    return lambda series: [Line(label, series[key]) for key, label in named if key in series]


def _texts(series: Series) -> list[Line]:
    found = list[Line]()
    for side in LABEL_VALUES["side"]:
        own = {key: curve for key, curve in series.items() if dict(parse_key(key)[1]).get("side") == side}
        levels = by_label(own, _AGREEMENT, "level")
        where = "real images" if side == "real" else "the student's states"
        for level, curve in levels.items():
            last = level == list(levels)[-1]
            found.append(Line(f"{level_name(level, list(levels))}: {where}", curve, dashed=side != "real", main=last))
    return found


def _gates(series: Series) -> list[Line]:
    """A line at the height of each level, there where it is open."""
    found = by_label(series, "advdmd_learner_rl_gate_open", "level")
    return [
        Line(
            level_name(level, list(found)),
            Curve(curve.cycles, curve.times, np.where(curve.values > 0, float(level), np.nan)),
        )
        for level, curve in found.items()
    ]


def _judged(*, large: bool) -> Callable[[Series], list[Line]]:
    def lines(series: Series) -> list[Line]:
        found = by_label(series, "advdmd_run_judge", "figure")
        wanted = {key: curve for key, curve in found.items() if (np.nanmax(curve.values) > _LARGEST_SHARE) == large}
        return [Line(figure_name(key), curve) for key, curve in wanted.items()]

    return lines


def _scorers(series: Series) -> list[Line]:
    return [
        Line(plain(word), curve) for word, curve in by_label(series, "advdmd_run_validation_score", "scorer").items()
    ]


def _memory(series: Series) -> list[Line]:
    found = by_label(series, "advdmd_run_resident_memory_bytes", "role")
    return [Line(ROLES.get(role, role), curve) for role, curve in found.items()]


def _auc_bands(config: Config) -> list[Band]:
    high = config.discriminator.auc_high
    over = [Band(high, 1.0, f"overpowering, above {high:g}", bad=True)] if high < 1 else []
    return [Band(0.5, 0.5, "chance"), *over]


def _age_bands(config: Config) -> list[Band]:
    most = float(config.rollout.max_policy_age)
    return [Band(most, most, f"most that is allowed, {most:g}")]


PANELS: tuple[Panel, ...] = (
    Panel(
        "judge-distance",
        "Judge: distance of the student from real images",
        "Of the student's moving average, judged while it learns.",
        "Falls, or stays low. It hangs on the number of images: compare it with itself, not with the final verdict.",
        _judged(large=True),
        ("advdmd_run_judge",),
    ),
    Panel(
        "judge-shares",
        "Judge: shares and ratios of the student",
        "Of the student's moving average, judged while it learns; 1 is as good, or as varied, as real images.",
        "Rise, or stay high. Falling while the reward rises is reward hacking.",
        _judged(large=False),
        ("advdmd_run_judge",),
    ),
    Panel(
        "validation",
        "Scores of the validation prompts",
        "Mean over their images, from the same noise at every cycle, by scorer; higher is better.",
        "Rise, or stay high. Falling while a reward rises is reward hacking.",
        _scorers,
        ("advdmd_run_validation_score",),
    ),
    Panel(
        "reward",
        "Reward",
        "Mean score that the discriminator gives the student's states; level j is the state after action j.",
        "Moves with both players. A rise alone proves nothing, as the discriminator moves too.",
        _levels("advdmd_reward_mean"),
        ("advdmd_reward_mean",),
        smooth=True,
    ),
    Panel(
        "spread",
        "Spread of the reward within groups",
        "Standard deviation over the trajectories of one prompt: what the advantages are made of.",
        "Above 0. Without a spread RL has nothing to learn from.",
        _levels("advdmd_reward_spread"),
        ("advdmd_reward_spread",),
        smooth=True,
    ),
    Panel(
        "own-reward",
        "Reward of one's own",
        "What the user's own reward, reward.extra, gives final images; it is no part of AdvDMD.",
        "The mean rises. A spread of 0 within groups leaves nothing to learn from.",
        _one(("advdmd_reward_extra_mean", "mean"), ("advdmd_reward_extra_spread", "spread within groups")),
        ("advdmd_reward_extra_mean", "advdmd_reward_extra_spread"),
        smooth=True,
    ),
    Panel(
        "auc",
        "Discriminator: real against generated",
        "Held-out AUC: how often it scores a real image above one of the student's.",
        "Below the shaded part. 0.5 means that it cannot tell them apart, as at the optimum of a GAN.",
        _levels("advdmd_learner_discriminator_auc"),
        ("advdmd_learner_discriminator_auc",),
        bands=_auc_bands,
        span=(0.45, 1.0),
    ),
    Panel(
        "texts",
        "Discriminator: the right text against a wrong one",
        "Share of states that score higher with their own text than with another, smoothed.",
        "Above 0.5 on both sides; only then does RL use the level's reward.",
        _texts,
        (_AGREEMENT,),
        bands=lambda _: [Band(0.5, 0.5, "chance")],
        span=(0.4, 1.0),
    ),
    Panel(
        "gates",
        "Levels open to RL",
        "A bar where RL may use the reward of a level.",
        "Bars from the end of the warm phase on. A level without one gives no signal.",
        _gates,
        ("advdmd_learner_rl_gate_open",),
        bars=True,
    ),
    Panel(
        "losses",
        "Losses of distribution matching, fake score and discriminator",
        "Mean over the cycle.",
        "Bounded. The student's has no fixed optimum: it falls as the fake score follows.",
        _objectives("advdmd_learner_loss", "dmd", "fake_score", "discriminator"),
        ("advdmd_learner_loss",),
        smooth=True,
    ),
    Panel(
        "rl-loss",
        "Loss of reinforcement learning",
        "Mean over the cycle; close to 0, as advantages of a group add up to 0.",
        "Stays around 0, without a growing swing.",
        _objectives("advdmd_learner_loss", "rl"),
        ("advdmd_learner_loss",),
        smooth=True,
    ),
    Panel(
        "gradients",
        "Gradient norms",
        "Before the clip, the largest of a cycle; the scale is logarithmic.",
        "Level or falling. A lasting rise by a factor of ten is the way to divergence.",
        _objectives("advdmd_learner_gradient_norm", "dmd", "rl", "fake_score", "discriminator"),
        ("advdmd_learner_gradient_norm",),
        log=True,
        smooth=True,
    ),
    Panel(
        "divergence",
        "Divergence from the policy that acted",
        "KL of a whole latent, in nats, between the student that learns and the one that made the trajectory.",
        "Small and level. A rise means steps too large: lower RL's learning rate.",
        _one(("advdmd_learner_kl_nats", "divergence")),
        ("advdmd_learner_kl_nats",),
        smooth=True,
    ),
    Panel(
        "ages",
        "Age of what is learned from",
        "Versions between the networks that made or scored a group and the learner that takes it; the oldest.",
        "At most the age that is allowed.",
        _one(("advdmd_buffer_policy_age_last", "policy"), ("advdmd_buffer_reward_age_last", "reward")),
        ("advdmd_buffer_policy_age_last", "advdmd_buffer_reward_age_last"),
        bands=_age_bands,
        span=(0.0, 1.0),
    ),
    Panel(
        "throughput",
        "Pace",
        "Trajectories that a second brings, over each cycle.",
        "Level. Dips are judgements, sample grids and checkpoints.",
        _one(("advdmd_rollout_trajectories_per_second", "trajectories a second")),
        ("advdmd_rollout_trajectories_per_second",),
        smooth=True,
        span=(0.0, 0.0),
    ),
    Panel(
        "cycle-seconds",
        "Time of a learner cycle",
        "Without the wait for groups.",
        "Level; it grows once where RL begins.",
        _one(("advdmd_learner_cycle_seconds", "seconds")),
        ("advdmd_learner_cycle_seconds",),
        form="seconds",
        smooth=True,
        span=(0.0, 0.0),
    ),
    Panel(
        "memory",
        "Memory",
        "Resident memory of the processes of each role.",
        "Level after the first cycles.",
        _memory,
        ("advdmd_run_resident_memory_bytes",),
        form="bytes",
        span=(0.0, 0.0),
    ),
)
SHOWN = frozenset({name for panel in PANELS for name in panel.names} | {"advdmd_run_phase"})
"""Names of the series that a page needs whole."""
