"""summary.json: what a run achieved and on what, in a fixed shape."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from advdmd_ray.files import write_atomically


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FigureLabel(_Part):
    """One of the judge's figures."""

    key: str = Field(description="Its name in `Score.figures`.")
    label: str = Field(description="Its name for a reader.")
    better: Literal["higher", "lower"] = Field(description="Which values are better.")
    share: bool = Field(description="Whether it is a share in [0, 1].")


class Score(_Part):
    """The judge's verdict on one set of images."""

    figures: dict[str, float] = Field(min_length=1, description="Value by key.")
    images: int = Field(ge=1, description="Number of images; compare equal numbers only.")


class StudentScore(Score):
    """The verdict on the student at its own number of steps."""

    steps: int = Field(ge=1, description="Student steps K.")


class JudgeSummary(_Part):
    """All verdicts."""

    headline: str = Field(description="Key of the figure that samplers are compared by.")
    labels: tuple[FigureLabel, ...] = Field(min_length=1, description="The figures, in the order to show.")
    teacher: dict[int, Score] = Field(min_length=1, description="By number of ODE steps: 40, 8, 4, 2.")
    student: StudentScore
    real: Score = Field(
        description="Held-out real images, a reference: of fewer images a distance reads higher. No scorer sees them."
    )

    @model_validator(mode="after")
    def _every_score_has_every_figure(self) -> Self:
        keys = {label.key for label in self.labels}
        if self.headline not in keys:
            raise ValueError(f"headline must be one of {sorted(keys)}, got {self.headline!r}")
        for score in (*self.teacher.values(), self.student):
            if score.figures.keys() != keys:
                raise ValueError(f"every score must have the figures {sorted(keys)}, got {sorted(score.figures)}")
        if self.headline not in self.real.figures or self.real.figures.keys() - keys:
            raise ValueError(
                f"real images must have the headline among {sorted(keys)}, got {sorted(self.real.figures)}"
            )
        return self

    @property
    def headline_label(self) -> FigureLabel:
        """The label of the headline."""
        return next(label for label in self.labels if label.key == self.headline)


class Updates(_Part):
    """Optimizer updates made, by objective; what a resumed run made again counts again."""

    dmd: int = Field(ge=0)
    rl: int = Field(ge=0)
    fake_score: int = Field(ge=0)
    discriminator: int = Field(ge=0)


class AucRange(_Part):
    """Held-out AUC of one level over the cycles in which RL updates were made."""

    mean: float = Field(ge=0, le=1)
    min: float = Field(ge=0, le=1)


class DiscriminatorSummary(_Part):
    """How well the discriminator told real from fake, by level 1..K."""

    auc: dict[int, float] = Field(description="Held-out AUC at the end.")
    auc_while_rl: dict[int, AucRange] = Field(default={}, description="Empty if no RL update was made.")


class Trajectories(_Part):
    """What became of the trajectories."""

    trained: int = Field(ge=0, description="Consumed by learner cycles, also by those made again.")
    dropped: dict[str, int] = Field(default={}, description="Left out, by reason.")


class PerStream(_Part):
    """A count for each stream of weights."""

    student: int = Field(ge=0)
    discriminator: int = Field(ge=0)


class WeightsSummary(_Part):
    """Snapshots published, and loads by whether their digest was the published one."""

    published: PerStream
    verified: PerStream
    mismatched: PerStream
    workers: dict[str, dict[str, int]] = Field(default={}, description="Last version by worker and stream.")


class Seconds(_Part):
    """Wall time of the run's parts, seconds."""

    setup: float = Field(ge=0)
    train: float = Field(ge=0)
    judge: float = Field(ge=0)


class RoleSeconds(_Part):
    """Worker time of one role, seconds summed over its workers."""

    busy: float = Field(ge=0)
    waiting: float = Field(ge=0)
    blocked: float = Field(ge=0)
    down: float = Field(default=0.0, ge=0, description="Its process had ended, and the next was not up.")


class Summary(_Part):
    """The whole of summary.json."""

    run: str = Field(description="Name of the run.")
    seed: int
    cycles: int = Field(ge=0, description="Learner cycles made.")
    kernel: str = Field(description="Transition kernel the student was trained and judged with.")
    sigmas: tuple[float, ...] = Field(description="Student noise levels before the shift.")
    judge: JudgeSummary | None = Field(description="All verdicts; null where there are none.")
    not_judged: str | None = Field(None, description="Why there are none, and what to do; null where there are.")
    updates: Updates
    discriminator: DiscriminatorSummary
    trajectories: Trajectories
    weights: WeightsSummary
    seconds: Seconds
    roles: dict[str, RoleSeconds] = Field(default={}, description="Worker time by role.")
    ratio_deviation: float | None = Field(None, ge=0, description="Largest |ratio - 1| at equal weights.")
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    commit: str

    @model_validator(mode="after")
    def _is_judged_or_says_why_not(self) -> Self:
        if (self.judge is None) == (self.not_judged is None):
            raise ValueError("a summary has either verdicts or the reason why there are none")
        return self


def write_summary(path: Path, summary: Summary) -> Path:
    """Writes a summary.json, whole or not at all, and returns its path."""
    return write_atomically(path, (summary.model_dump_json(indent=2) + "\n").encode())
