"""The classes of diffusers that are named in code, imported when they are first asked for and without notices.

Importing diffusers takes seconds, most of them for what no network of ours uses, so a process that loads no pipeline
is spared them. Importing a pipeline makes transformers announce, several times, that torchvision is not installed. It
is not needed: no image processor is used. Its verbosity is the user's again once the imports are done.

Where torchao is installed, diffusers would import it too, which takes seconds more. Only a base in 8 bits needs it, and
`models/quantization.py` asks torchao itself.
"""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from advdmd_ray.models.families.registry import Family

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

__all__ = [
    "FlowMatchEulerDiscreteScheduler",
    "SD3Transformer2DModel",
    "StableDiffusion3Pipeline",
    "pipeline_class",
    "transformer_class",
]
UNUSED = "torchao"
"""What diffusers and peft would import where it is installed, for nothing that they do here."""


def pipeline_class(family: Family) -> Any:
    """A family's pipeline class."""
    # diffusers takes a component's class only from modules that are imported already.
    _named("PixelCodec", "advdmd_ray.models.codec")
    return _named(family.pipeline)


def transformer_class(family: Family) -> Any:
    """A family's transformer class."""
    return _named(family.transformer)


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Nothing finds these packages inside: diffusers, imported here, does without those that are optional to it.

    Python's own way to say that there is no such module is None in its place. diffusers remembers what it found, so
    this is for a process of its own. A package that is imported already stays.
    """
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # pyright: ignore[reportArgumentType, reportCallIssue] - None is allowed
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _named(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _named(name: str, module: str = "diffusers") -> Any:
    with _importing():
        return getattr(importlib.import_module(module), name)


@contextmanager
def _importing() -> Iterator[None]:
    """Without notices, and with no search for garbage among what an import makes: all of it stays, and it is much."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with hidden(UNUSED), _silent_transformers():
            yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _silent_transformers() -> Iterator[None]:
    from diffusers.utils.import_utils import is_transformers_available

    if not is_transformers_available():  # hidden
        yield
        return
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
