"""One image as it stands on disk becomes the model's size; the same in any thread."""

import io
import math
import struct
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError

from advdmd_ray.data.files.captions import caption_fault
from advdmd_ray.data.files.items import CaptionedImage
from advdmd_ray.data.files.viewing import UnknownRangeError, as_shown, has_several
from advdmd_ray.reading import POINTED, POINTER

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI", "ICO")
"""What Pillow is let read: some others of its formats are drawn by programs of their own (EPS), or known by no mark."""
UNREADABLE = (
    OSError,
    TypeError,  # Pillow's, of a broken TIFF
    ValueError,
    SyntaxError,  # Pillow's, of a broken PNG
    IndexError,  # of a GIF that is cut
    struct.error,
    RuntimeError,  # of a broken AVIF
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
COMPRESSED, MOST_ZEROS = frozenset({"WEBP", "AVIF", "JPEG2000", "QOI"}), 256
END_OF_PNG = b"IEND\xaeB`\x82"
END_OF_JPEG, SCAN_OF_JPEG = b"\xff\xd9", 0xDA


@dataclass(frozen=True, slots=True)
class Fitted:
    """An image of the model's size.

    Attributes:
        pixels: In [-1, 1].
        size: Width and height that it had, as a viewer shows it.
        several: Whether its file has more pictures, as animations do; it is the first.
        crop: Left and top of the cut in the scaled image.
        bucket: Number of the model's size that it has, where there are several.
    """

    pixels: Float[np.ndarray, "c h w"]
    size: tuple[int, int]
    several: bool = False
    crop: tuple[int, int] = (0, 0)
    bucket: int = 0


@dataclass(frozen=True, slots=True)
class Fitting:
    """How images become the model's size.

    Attributes:
        height: Pixels.
        width: Pixels.
        most_upscaling: Images that would have to grow by more than this factor are left out.
        channels: 3, or 1 for a model of grey images.
    """

    height: int
    width: int
    most_upscaling: float
    channels: Literal[1, 3] = 3

    def fitted(self, item: CaptionedImage) -> Fitted:
        """Decode, scale until it covers the size, and cut the middle out.

        Raises:
            ValueError: with the reason why the image cannot be used.
        """
        return self.cut(*decoded(item))

    def scale(self, image: Image.Image) -> float:
        """The least factor with which an image covers the size."""
        return max(self.height / image.height, self.width / image.width)

    def cut(self, image: Image.Image, several: bool) -> Fitted:  # noqa: FBT001 - as `decoded` gives it
        """Scale until it covers the size, and cut the middle out.

        Raises:
            ValueError: if it would have to grow too much.
        """
        shown, scale = image.size, self.scale(image)
        if scale > self.most_upscaling:
            raise ValueError(f"has too few pixels ({image.width} x {image.height})")
        size = max(self.width, round(image.width * scale)), max(self.height, round(image.height * scale))
        left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        image = image.convert("L") if self.channels == 1 else image
        cut = image.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + self.width, top + self.height))
        values = np.asarray(cut, dtype=np.float32).reshape(self.height, self.width, self.channels)
        return Fitted(values.transpose(2, 0, 1) / 127.5 - 1, shown, several, (left, top))


def decoded(item: CaptionedImage) -> tuple[Image.Image, bool]:
    """An image that has a caption, as a viewer shows it, and whether its file has others.

    Raises:
        ValueError: with the reason why the image cannot be used.
    """
    if fault := item.fault or caption_fault(item.caption):
        raise ValueError(fault)
    return _decoded(item.content)


def _decoded(content: bytes) -> tuple[Image.Image, bool]:
    """An image as a viewer shows it, and whether its file has others.

    Raises:
        ValueError: with the reason why there is none.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            _check_size(opened)
            several = has_several(opened)
            image = as_shown(opened)
            whole = _is_whole(content, opened.format or "")
    except UnidentifiedImageError:
        if content.startswith(POINTER):
            raise ValueError(POINTED) from None
        raise ValueError("is no image, or a broken one" if content else "is empty") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except UnknownRangeError:
        raise
    except UNREADABLE as error:
        raise ValueError(f"is no readable image ({type(error).__name__})") from None
    if not whole:
        raise ValueError("ends too early")
    return image, several


def _check_size(opened: Image.Image) -> None:
    # Pillow warns of it; but to make errors of warnings is no matter of one thread.
    if opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError


def is_image(stream: IO[bytes]) -> bool:
    """Whether what a stream holds says that it is an image, whatever the name of the file is."""
    try:
        with Image.open(stream, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except UNREADABLE:  # it says so, and is broken
        return True


def _is_whole(content: bytes, kind: str) -> bool:
    """Whether a file is not one whose end was never written: Pillow decodes what is missing as grey or black.

    A PNG ends in a chunk that says so, a JPEG has its mark of the end behind its first scan: the pictures in its
    segments, such as EXIF's, have such marks too, and are stepped over. Other compressed data does not end in zeros.
    """
    if kind == "PNG":
        return END_OF_PNG in content
    if kind not in {"JPEG", "MPO"}:
        return kind not in COMPRESSED or not content.endswith(bytes(MOST_ZEROS))
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:  # noqa: PLR2004 - begins a segment
        if content[place + 1] == SCAN_OF_JPEG:
            break
        if content[place + 1] == 0xFF:  # noqa: PLR2004 - any number of them may stand before a segment
            place += 1
            continue
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return content.find(END_OF_JPEG, place) >= 0
