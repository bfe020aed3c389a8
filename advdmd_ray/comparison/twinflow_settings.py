"""The settings of the rival TwinFlow."""

from pydantic import Field

from advdmd_ray.config import Section
from advdmd_ray.config.base import Count, Positive, Rate


class TwinFlowSettings(Section):
    """What stands under `settings` of a rival that TwinFlow trains."""

    learning_rate: Rate = Field(default=2e-4, description="Learning rate of the one network.")
    batch_size: Positive = Field(default=64, description="Rows of each part of an update: generated ones, real ones.")
    warm_updates: Count = Field(
        default=20,
        description="First updates without rectification, in which the branch of negative times forms.",
    )
    rectification: float = Field(default=1.0, ge=0, le=100, description="Weight of the rectification loss.")
    consistency: float = Field(default=0.5, ge=0, le=100, description="Weight of the consistency of jumps to time 0.")
    row_weights: bool = Field(
        default=True,
        description="Whether rows have the authors' weights: 1 / rms of each difference, and in the consistency the "
        "tangent of the time gap besides.",
    )
    bound: float = Field(default=1.0, gt=0, description="Largest absolute element of velocity gap and residual.")
