"""AdvDMD on Ray: adversarial distribution matching distillation as a distributed actor/learner system.

Importing the package imports neither torch nor ray nor diffusers. `PixelCodec` is offered here by name because
diffusers pipeline folders may refer to it; it is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advdmd_ray.models.codec import PixelCodec

__all__ = ["PixelCodec", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import `PixelCodec` (and with it torch and diffusers) on first use."""
    if name == "PixelCodec":
        from advdmd_ray.models.codec import PixelCodec  # noqa: PLC0415 - importing the package must stay free

        return PixelCodec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
