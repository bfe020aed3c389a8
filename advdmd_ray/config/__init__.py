"""The configuration: frozen, typed, bounded sections, and the reader of YAML files and overrides.

It imports neither torch nor ray, so that `--help` and bad input answer at once.
"""

from advdmd_ray.config.base import Section
from advdmd_ray.config.inputs import Data, Lora, Model
from advdmd_ray.config.reading import dump_config, read_config
from advdmd_ray.config.sections import (
    Buffer,
    Cadence,
    Diffusion,
    Discriminator,
    DistributionMatching,
    Evaluation,
    FakeScore,
    Learner,
    Metrics,
    PolicyGradient,
    Pretrain,
    RaySection,
    Resources,
    Reward,
    Rollout,
    Run,
    TwinFlow,
    Weights,
)
from advdmd_ray.config.whole import Config

__all__ = [
    "Buffer",
    "Cadence",
    "Config",
    "Data",
    "Diffusion",
    "Discriminator",
    "DistributionMatching",
    "Evaluation",
    "FakeScore",
    "Learner",
    "Lora",
    "Metrics",
    "Model",
    "PolicyGradient",
    "Pretrain",
    "RaySection",
    "Resources",
    "Reward",
    "Rollout",
    "Run",
    "Section",
    "TwinFlow",
    "Weights",
    "dump_config",
    "read_config",
]
