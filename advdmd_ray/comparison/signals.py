"""What a learner's cycles said between two judgements: the reasons for a score, beside it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from advdmd_ray.learner.outcome import CycleReport

Sum: TypeAlias = tuple[float, int]
"""Total of finite values, and how many they are."""
_OF_A_TURN = ("masked_fraction", "kl_nats")
"""Figures of an RL turn, which have no levels."""


@dataclass(frozen=True, slots=True)
class Signals:
    """Sums over the cycles since one judgement, and the state that the newest of them left.

    Attributes:
        since: Number of the judgement before these cycles; 0 before the first.
        sums: By figure, one for each level 1..K; a single one for a figure of the RL turn.
        newest: `phase` of the newest cycle, and its smoothed `auc` per level, None where there is none.
    """

    since: int = 0
    sums: Mapping[str, tuple[Sum, ...]] = field(default_factory=dict)
    newest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """From what `dataclasses.asdict` made, also after its way through JSON."""
        sums = {name: tuple((total, count) for total, count in column) for name, column in facts["sums"].items()}
        return cls(facts["since"], sums, facts["newest"])

    def then(
        self, report: CycleReport, since: int, *, rewarded_by: Literal["discriminator", "oracle", "nobody"]
    ) -> "Signals":
        """With one more cycle; the sums begin anew if it is the first one since a judgement.

        Args:
            report: The cycle's; the figures of its RL turn, if it made one, are of all shares.
            since: Number of the judgement before the cycle.
            rewarded_by: Whose scores the rewards are: an oracle's are no logits and get a name of their own.
        """
        turn = report.policy
        values: dict[str, tuple[float, ...]] = {
            "agreement": report.agreement,
            "masked_fraction": (math.nan if turn is None else turn.masked_fraction,),
            "kl_nats": (math.nan if turn is None else turn.kl_nats,),
        }
        if rewarded_by != "nobody":
            prefix = "reward" if rewarded_by == "discriminator" else "oracle_reward"
            values[f"{prefix}_mean"], values[f"{prefix}_spread"] = report.reward_mean, report.reward_spread
        before = self.sums if since == self.since else {}
        sums = {
            name: tuple(_added(*pair) for pair in zip(before.get(name, [(0.0, 0)] * len(row)), row, strict=True))
            for name, row in values.items()
            if row
        }
        auc = [value if math.isfinite(value) else None for value in report.smoothed_auc]
        return Signals(since, sums, {"phase": report.plan.phase, "auc": auc})

    def notes(self) -> dict[str, Any]:
        """The means, None where no cycle had a value, and the newest state, as JSON has them."""
        means = {name: [_mean(column) for column in columns] for name, columns in self.sums.items()}
        return {**self.newest, **{name: row[0] if name in _OF_A_TURN else row for name, row in means.items()}}


def _added(before: Sum, value: float) -> Sum:
    total, count = before
    return (total + value, count + 1) if math.isfinite(value) else before


def _mean(column: Sum) -> float | None:
    total, count = column
    return total / count if count else None
