"""The data sources by name; docs/ADD_A_SOURCE.md shows how to add one.

A source's code is imported when it is asked for, so configuration and help need none.
"""

from collections.abc import Mapping

from advdmd_ray.config import Config
from advdmd_ray.config.named import named_class
from advdmd_ray.data.source import Source

SOURCES: Mapping[str, str] = {
    "digits": "advdmd_ray.data.digits.source:DigitsSource",
    "shapes": "advdmd_ray.data.shapes.source:ShapesSource",
    "files": "advdmd_ray.data.files.source:FilesSource",
    "teacher_samples": "advdmd_ray.data.teacher_samples.source:TeacherSamplesSource",
}
"""Name in `data.source` -> module:Class; a source from outside the package is named that way itself."""


def source_class(name: str) -> type[Source]:
    """The class that a value of `data.source` names.

    Raises:
        UserError: if there is none of that name.
    """
    return named_class("data.source", name, SOURCES, Source)


def source_of(config: Config) -> Source:
    """The source of a configuration.

    Raises:
        UserError: as `source_class`, or if the settings do not fit it.
    """
    return source_class(config.data.source)(config)
