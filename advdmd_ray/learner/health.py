"""The discriminator's health: whose levels may give rewards, and whether it should rest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from advdmd_ray.config import Config

SIDES = ("real", "student")
"""Whose states the text agreement is measured of, in this order: held-out real images, and the student's."""


def agreement_and_error(weight: float, lead: float, square: float) -> tuple[float, float]:
    """`a = 1/2 + sum L_g / sum W_g` and its standard error at chance, `sqrt(sum S_g) / sum W_g`, S_g at least L_g^2.

    The sums run over the groups g of any number of cycles. With the terms of a group that is c cycles old scaled by
    `d^c`, and its `S_g` by `d^(2c)`, both figures are those of the exponentially smoothed value: its effective sample
    size, `(sum d^c W_g)^2 / sum d^(2c) W_g^2` groups, is in the error. At chance `L_g` is as likely as `-L_g`, so
    `P(sum L_g > z sqrt(sum S_g)) <= exp(-z^2 / 2)` however few groups there are (Efron, JASA 64, 1969); for many it
    is the normal distribution's tail.

    Args:
        weight: `sum W_g`, at least 0.
        lead: `sum L_g`.
        square: `sum S_g`, at least 0.

    Returns:
        Agreement in [0, 1], 0.5 at chance, and error; both nan if nothing was looked at.
    """
    if not weight > 0:
        return math.nan, math.nan
    return 0.5 + lead / weight, math.sqrt(square) / weight


@dataclass(frozen=True, slots=True)
class TextEvidence:
    """How well the discriminator tells right from wrong texts, as sums over groups, one for each level 1..K.

    See `losses.text_agreement` for a group's; older cycles count less.

    Attributes:
        weight: `sum W_g`.
        lead: `sum L_g`.
        square: `sum S_g`.
    """

    weight: tuple[float, ...]
    lead: tuple[float, ...]
    square: tuple[float, ...]

    @classmethod
    def none(cls, levels: int) -> Self:
        """Before anything was looked at."""
        return cls(*((0.0,) * levels,) * 3)

    @property
    def agreement(self) -> tuple[float, ...]:
        """Smoothed share of states that score higher with their own text, ties half; nan where none was looked at."""
        return tuple(agreement_and_error(*sums)[0] for sums in self._levels())

    @property
    def error(self) -> tuple[float, ...]:
        """Standard error of `agreement` at chance; nan where nothing was looked at."""
        return tuple(agreement_and_error(*sums)[1] for sums in self._levels())

    def above_chance(self, errors: float) -> tuple[bool, ...]:
        """Whether the agreement exceeds chance by more than so many standard errors; never without evidence."""
        return tuple(lead > errors * math.sqrt(square) for _, lead, square in self._levels())

    def followed(self, sums: Sequence[Sequence[float]], decay: float) -> Self:
        """With one more cycle. A level whose sums are not finite forgets all that was known of it.

        Args:
            sums: `[3][K]` over the groups of all ranks, from `agreement_sums`.
            decay: Of all that was there before, in [0, 1]; of squares `decay^2`.
        """
        levels = []
        for before, new in zip(self._levels(), zip(*sums, strict=True), strict=True):
            decays = (decay, decay, decay * decay)
            later = tuple(d * old + added for d, old, added in zip(decays, before, new, strict=True))
            levels.append(later if all(math.isfinite(value) for value in later) else (0.0, 0.0, 0.0))
        return type(self)(*zip(*levels, strict=True))

    def _levels(self) -> list[tuple[float, float, float]]:
        return list(zip(self.weight, self.lead, self.square, strict=True))


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of the discriminator at each level 1..K.

    Attributes:
        auc: Smoothed held-out AUC, in [0, 1]; nan where none is known, which shuts the level.
        high: Above it a level is overpowering.
        texts: Evidence of each of `SIDES`; empty where no level has to show that it reads the text.
        errors: Standard errors by which it has to exceed chance on every side.
        oracle: Whether an oracle gives the rewards. It judges the last level, whatever is known of the others.
    """

    auc: tuple[float, ...]
    high: float
    texts: tuple[TextEvidence, ...] = ()
    errors: float = 0.0
    oracle: bool = False

    @property
    def open_levels(self) -> tuple[bool, ...]:
        """Levels whose scores may be used as rewards: those that read the text and overpower nobody."""
        if self.oracle:
            return (*(False for _ in self.auc[:-1]), True)
        reads = [evidence.above_chance(self.errors) for evidence in self.texts]
        return tuple(area <= self.high and all(side[level] for side in reads) for level, area in enumerate(self.auc))

    @property
    def overpowering(self) -> bool:
        """Whether every level is so well separated that the discriminator should rest."""
        return bool(self.auc) and all(area > self.high for area in self.auc)

    def to_facts(self) -> dict[str, Any]:
        """What was measured so far, as JSON-able facts for a checkpoint."""
        return {
            "auc": [area if math.isfinite(area) else None for area in self.auc],
            "texts": [[list(side.weight), list(side.lead), list(side.square)] for side in self.texts],
        }

    def restored(self, facts: Mapping[str, Any]) -> Self:
        """Continues from the facts of a checkpoint; without evidence of texts, where it has none."""
        auc = tuple(math.nan if area is None else area for area in facts["auc"])
        texts = tuple(TextEvidence(*(tuple(row) for row in sums)) for sums in facts.get("texts", ()))
        return replace(self, auc=auc, texts=texts if len(texts) == len(self.texts) else self.texts)


def initial_health(config: Config) -> Health:
    """Health before anything was measured: no level of a discriminator is open."""
    section = config.discriminator
    return Health(
        auc=(math.nan,) * config.steps,
        high=section.auc_high,
        texts=tuple(TextEvidence.none(config.steps) for _ in SIDES) if config.measures_text else (),
        errors=section.text_errors or 0.0,
        oracle=config.reward.kind == "oracle",
    )


def smoothed_health(
    health: Health, auc: Sequence[float], texts: Sequence[Sequence[Sequence[float]]], decay: float
) -> Health:
    """Exponential smoothing of all that is measured, level by level.

    `a <- decay a + (1 - decay) measured` for the AUC, from the first measurement on. One that is not a number shuts its
    level and is forgotten with all that was known before it.

    Args:
        health: Before.
        auc: Measured, one for each level.
        texts: `[side][3][K]`, as many sides as `health` has; see `TextEvidence.followed`.
        decay: In [0, 1].
    """
    areas = tuple(
        decay * old + (1 - decay) * new if math.isfinite(old) and math.isfinite(new) else new
        for old, new in zip(health.auc, auc, strict=True)
    )
    sides = tuple(side.followed(sums, decay) for side, sums in zip(health.texts, texts, strict=True))
    return replace(health, auc=areas, texts=sides)
