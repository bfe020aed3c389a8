"""Sections of what a run does when the training, a prompt or a worker goes wrong."""

from pydantic import Field

from advdmd_ray.config.base import Count, Fraction, Free, Section


class GuardSection(Section):
    """The guard against divergence (controller/guard.py): losses, gradient norms and reward spreads of each cycle."""

    enabled: Free[bool] = Field(default=True, description="false: a run that diverges goes on to its end.")
    window: Free[int] = Field(
        default=50, ge=8, le=10_000, description="Cycles of a series' past that its next value is compared with."
    )
    factor: Free[float] = Field(
        default=100.0,
        ge=2,
        le=1e6,
        description="A value is out if it exceeds the median of the past by this factor. What lies below 1, or below "
        "learner.max_grad_norm for a gradient norm, counts as that.",
    )
    deviations: Free[float] = Field(
        default=6.0,
        ge=1,
        le=100,
        description="And by so many standard deviations of the noise in the past's logarithm, for a series that jumps "
        "that far.",
    )
    patience: Free[int] = Field(
        default=3,
        ge=1,
        le=1000,
        description="Values of a series in a row that are out before the run stops; a loss or spread that is no "
        "finite number stops it at once.",
    )


class QuarantineSection(Section):
    """What becomes of groups that are no groups: values that are not finite, or work that ends its process."""

    attempts: Free[int] = Field(
        default=2,
        ge=1,
        le=100,
        description="Groups of one ordinal with values that are not finite before another prompt takes its place.",
    )
    processes: Free[int] = Field(
        default=4,
        ge=2,
        le=100,
        description="Processes that end at the work of one ordinal before another prompt takes its place.",
    )
    recent: Free[int] = Field(default=40, ge=4, le=10_000, description="Groups that quarantine.share is taken of.")
    share: Free[Fraction] = Field(
        default=0.25,
        description="The run stops if more than this share of the last groups are not finite: it is the student then. "
        "0: the first one stops it.",
    )
    files: Free[Count] = Field(
        default=20, description="Most files in the run folder's quarantine/, which `advdmd replay` runs again."
    )
    max_bytes: Free[Count] = Field(
        default=256 * 2**20, description="Most bytes of them; of a group beyond that only the lease is kept."
    )
