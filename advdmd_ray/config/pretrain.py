"""The file of a teacher's training: a run's configuration with one section more. Read by `advdmd pretrain`."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from advdmd_ray.config.base import Positive, Rate, Section
from advdmd_ray.config.reading import read_as
from advdmd_ray.config.texts import PathText
from advdmd_ray.config.whole import Config


class PretrainSection(Section):
    """Training of the small teacher of `data.source` (`advdmd pretrain`)."""

    images: int = Field(default=60_000, ge=1000, description="shapes: about how many scenes are drawn to train on.")
    steps: Positive = Field(default=3000, description="Optimizer steps.")
    batch_size: int = Field(default=128, ge=1, le=2**16, description="Images per step.")
    learning_rate: Rate = Field(default=1e-3, description="Peak learning rate of AdamW.")
    muon_learning_rate: Rate | None = Field(
        default=None, description="Peak learning rate of Muon on the blocks' matrices; null: AdamW trains them too."
    )
    text_width: int | None = Field(
        default=None,
        ge=8,
        le=1024,
        multiple_of=8,
        description="Channels of each of the two random text encoders; null: 32. Wide ones say linearly in which order "
        "words stand.",
    )
    text_position_scale: float | None = Field(
        default=None,
        gt=0.0,
        le=10.0,
        description="Size of the text encoders' position embeddings beside word embeddings of size 1; null: 0.3 for "
        "digits and 0.7 for shapes.",
    )
    text_steps: int = Field(
        default=0,
        ge=0,
        description="shapes: batches of captions from which the first text encoder learns to say what they state; 0: "
        "it stays random.",
    )
    relation_captions: int = Field(
        default=0,
        ge=0,
        le=20_000,
        description="shapes: captions beyond the prompt table, each of which states a relation; two scenes of each are "
        "trained on beside `images`.",
    )
    checkpoint_steps: Positive = Field(
        default=1000, description="Steps between checkpoints; a training that was stopped goes on from the last."
    )
    folder: PathText = Field(default="runs/teacher", min_length=1, description="Where the trained pipeline goes.")


class PretrainConfig(Config):
    """A run's configuration, and how its teacher is trained before there is a run."""

    pretrain: PretrainSection = PretrainSection()


def read_pretrain(path: str | Path, overrides: Sequence[str] = ()) -> PretrainConfig:
    """Reads the configuration of a teacher's training; see `read_config`.

    Args:
        path: A YAML file, or the name of one that ships in configs/pretrain.
        overrides: `section.key=value`, in order.
    """
    return read_as(PretrainConfig, path, overrides, "pretrain")
