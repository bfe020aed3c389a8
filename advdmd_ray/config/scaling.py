"""Section of how a run changes its numbers of workers by itself."""

from typing import Self

from pydantic import Field, model_validator

from advdmd_ray.config.base import Free, Positive, Seconds, Section


class AutoscaleSection(Section):
    """Whether the run itself adds and removes rollout actors and reward workers (controller/autoscale.py)."""

    enabled: Free[bool] = Field(default=False, description="true: it does, within the bounds below.")
    rollout_min: Free[Positive] = Field(default=1, description="Fewest rollout actors.")
    rollout_max: Free[Positive] = Field(default=8, description="Most rollout actors.")
    reward_min: Free[Positive] = Field(default=1, description="Fewest reward workers.")
    reward_max: Free[Positive] = Field(default=4, description="Most reward workers.")
    learner_waits: Free[float] = Field(
        default=0.2,
        ge=0.05,
        le=0.5,
        description="Share of its time for which the learner may wait for groups; beyond it, more make them.",
    )
    workers_idle: Free[float] = Field(
        default=0.5,
        ge=0.3,
        le=0.9,
        description="Share of their time for which actors may be held back, and reward workers be without groups; "
        "beyond it, and while the learner hardly waits, there are too many.",
    )
    window_s: Free[Seconds] = Field(default=60.0, description="Seconds that are looked at before a change.")
    cool_down_s: Free[float] = Field(
        default=60.0, ge=0, description="Seconds after a change, by hand too, that are not looked at."
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        for role, least, most in (
            ("rollout", self.rollout_min, self.rollout_max),
            ("reward", self.reward_min, self.reward_max),
        ):
            if least > most:
                raise ValueError(f"{role}_min must not exceed {role}_max, got {least} and {most}; change one of them")
        return self
