"""An image as a viewer shows it: turned, in the colours that its profile means, on white, its first picture."""

import functools
import io
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.Image import Transpose
from PIL.TiffImagePlugin import TiffImageFile

from advdmd_ray.data.files.png_colours import png_meaning, scale_transparency

TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""What undoes an orientation of EXIF; others are none, and 1 is upright."""
BROKEN_EXIF = (SyntaxError, ValueError, TypeError, OSError, struct.error)
"""What Pillow raises of EXIF that is none, which viewers pass over."""
WHITE_IS_ZERO = 0
SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
"""Colour spaces of profiles, and the modes of pixels that they are about."""
ALIKE = 2
"""Levels by which profiles of sRGB differ, as libraries round them."""
LOSSLESS = ImageCms.Intent.RELATIVE_COLORIMETRIC


class UnknownRangeError(ValueError):
    """Pixels are numbers of which nobody knows what is black and what is white."""


def as_shown(opened: Image.Image) -> Image.Image:
    """The pixels of an opened image as red, green and blue of sRGB.

    The orientation of EXIF, ICC profiles, the gamma of a PNG, transparency (on white) and 16 bits of grey are obeyed;
    a profile that is none, or of another kind of pixels, is passed over, as viewers do.

    Raises:
        UnknownRangeError: for pixels of 32 bits.
    """
    scale_transparency(opened)
    opened.load()  # which turns a TIFF, and takes its orientation away
    turn = _turn(opened)
    profile, meaning = opened.info.get("icc_profile"), png_meaning(opened)
    image = _eight_bits(opened)
    if image.mode in {"P", "1"}:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    image = _in_srgb(_opaque(image), profile if isinstance(profile, bytes) else None)
    if meaning is not None:
        image = meaning.in_srgb(image)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image if turn is None else image.transpose(turn)


def _turn(opened: Image.Image) -> Transpose | None:
    try:
        return TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
    except BROKEN_EXIF:
        return None


def has_several(opened: Image.Image) -> bool:
    """Whether a file has more pictures than its first, as an animation or pages; it is at the first again then."""
    try:
        opened.seek(1)
    except EOFError:
        return False
    opened.seek(0)
    return True


def _opaque(image: Image.Image) -> Image.Image:
    """The same without transparency, in grey, colours, ink or Lab."""
    if image.mode in {"L", "RGB", "CMYK", "LAB"}:
        return image
    return image.convert("L" if image.mode in {"LA", "La"} else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """More than 8 bits of grey as 8, with what is transparent in it."""
    if not image.mode.startswith("I;16") and (image.mode, image.format) != ("I", "PPM"):  # has 16 of the 32 bits
        if image.mode in {"I", "F"}:
            raise UnknownRangeError(f"has pixels of 32 bits, whose range nobody knows (mode {image.mode})")
        return image
    values = np.asarray(image, dtype=np.uint32)
    tags: Mapping[int, object] = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    most = 2**12 - 1 if tags.get(ExifTags.Base.BitsPerSample) == (12,) else 2**16 - 1
    grey = (values * 255 // most).clip(0, 255).astype(np.uint8)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == WHITE_IS_ZERO:
        grey = 255 - grey
    eight = Image.fromarray(grey)
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        eight.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return eight


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours as their profile means them; those of no profile are sRGB's already."""
    if image.mode == "LAB":
        return _transformed(image, ImageCms.createProfile("LAB"))
    if profile is None:
        return image.convert("RGB")
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        facts: Any = own.profile
        mode = SPACES.get(facts.xcolor_space)
        if mode == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if mode != image.mode or (mode == "RGB" and _is_srgb(profile)):
            return image.convert("RGB")
        return _transformed(image, own)
    except (OSError, UnicodeDecodeError, ImageCms.PyCMSError):  # no profile, or a damaged one
        return image.convert("RGB")


@functools.lru_cache(maxsize=64)
def _is_srgb(profile: bytes) -> bool:
    """Whether colours mean what they mean in sRGB; that name is also in those of its primaries with a linear curve."""
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    shown = _transformed(Image.fromarray(colours), ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    return np.abs(np.asarray(shown).astype(int) - colours).max() <= ALIKE


def _transformed(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    # One for each image: two threads must not share a transform.
    made = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), image.mode, "RGB", LOSSLESS)
    return made.apply(image)
