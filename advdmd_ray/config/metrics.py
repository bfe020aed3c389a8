"""Where the figures of a run go."""

from typing import Literal

from pydantic import Field, field_validator

from advdmd_ray.config.base import Free, Place, Section
from advdmd_ray.config.texts import PathText

Sink = Literal["tensorboard", "wandb"]


class MetricsSection(Section):
    """Prometheus endpoint, metrics.jsonl and other sinks."""

    host: Free[str] = Field(default="127.0.0.1", min_length=1, description="Address /metrics listens on.")
    port: Free[int] = Field(
        default=9464, ge=0, le=65535, description="Port of /metrics; 0 picks a free one and prints it."
    )
    history_bytes: Free[int] = Field(
        default=64 * 2**20,
        ge=2**20,
        description="Most of metrics.jsonl. A longer file is thinned to half of this: one line for each cycle, or each "
        "2, 4, 8, ... cycles, with the last value of every series.",
    )
    targets: Place[PathText | None] = Field(
        default=None,
        min_length=1,
        description="Folder in which each run that goes on has a file for Prometheus (file_sd_configs), beside the one "
        "in its run folder. Made if it is missing; of runs on several nodes, on a file system that they share.",
    )
    linger_s: Free[float] = Field(
        default=15.0,
        ge=0,
        le=600,
        description="Longest that a run serves /metrics after its end, until Prometheus scraped its outcome; not at "
        "all if it never scraped. A run that is told to stop does it within run.drain_s.",
    )
    sinks: Free[tuple[Sink, ...]] = Field(
        default=(),
        description="Where else all series and the sample grids go, by cycle: tensorboard, a folder of that name in "
        "the run folder; wandb, Weights & Biases, which WANDB_MODE and its other variables direct.",
    )

    @field_validator("sinks")
    @classmethod
    def _sinks_differ(cls, sinks: tuple[Sink, ...]) -> tuple[Sink, ...]:
        if len({*sinks}) < len(sinks):
            raise ValueError("names a sink twice; name each once")
        return sinks
