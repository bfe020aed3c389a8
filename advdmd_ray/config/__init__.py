"""The configuration: frozen, typed, bounded sections, and the reader of YAML files and overrides.

It imports neither torch nor ray, so that `--help` and bad input answer at once.
"""

from advdmd_ray.config.base import Resume, Section
from advdmd_ray.config.reading import dump_config, read_config
from advdmd_ray.config.sections import Resources
from advdmd_ray.config.whole import Config

__all__ = ["Config", "Resources", "Resume", "Section", "dump_config", "read_config"]
