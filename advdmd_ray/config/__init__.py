"""The configuration: frozen, typed, bounded sections, and the reader of YAML files and overrides.

It imports neither torch nor ray, so that `--help` and bad input answer at once.
"""

from advdmd_ray.config.base import Resume, Section
from advdmd_ray.config.inputs import DataSection, LoraSection, ModelSection
from advdmd_ray.config.objectives import (
    CadenceSection,
    DiscriminatorSection,
    DistributionMatchingSection,
    FakeScoreSection,
    PolicyGradientSection,
)
from advdmd_ray.config.reading import dump_config, read_config
from advdmd_ray.config.sections import (
    BufferSection,
    DiffusionSection,
    EvaluationSection,
    LearnerSection,
    MetricsSection,
    RaySection,
    Resources,
    RewardSection,
    RolloutSection,
    RunSection,
)
from advdmd_ray.config.whole import Config

__all__ = [
    "BufferSection",
    "CadenceSection",
    "Config",
    "DataSection",
    "DiffusionSection",
    "DiscriminatorSection",
    "DistributionMatchingSection",
    "EvaluationSection",
    "FakeScoreSection",
    "LearnerSection",
    "LoraSection",
    "MetricsSection",
    "ModelSection",
    "PolicyGradientSection",
    "RaySection",
    "Resources",
    "Resume",
    "RewardSection",
    "RolloutSection",
    "RunSection",
    "Section",
    "dump_config",
    "read_config",
]
