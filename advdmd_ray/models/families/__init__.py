"""Adapters of the model families, one file each; `registry.py` lists them, docs/ADD_A_MODEL.md shows how to add one."""

import importlib
from typing import TYPE_CHECKING, Any

from advdmd_ray.models.families.registry import BY_PIPELINE, Family

if TYPE_CHECKING:  # an adapter imports torch, and a folder is inspected without
    from advdmd_ray.models.families.base import Adapter


def adapter(family: Family) -> "Adapter":
    """The code of a family."""
    return importlib.import_module(f"{__name__}.{family.name}").ADAPTER


def adapter_of(pipeline: Any) -> "Adapter":
    """The code of a loaded pipeline's family."""
    return adapter(BY_PIPELINE[type(pipeline).__name__])
