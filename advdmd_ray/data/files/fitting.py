"""One image as it stands on disk becomes the model's size; the same in any thread."""

import io
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from advdmd_ray.data.files.shards import CaptionedImage

UNREADABLE = (
    OSError,
    TypeError,  # Pillow's, of a broken TIFF
    ValueError,
    SyntaxError,  # Pillow's, of a broken PNG
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True, slots=True)
class Fitting:
    """How images become the model's size.

    Attributes:
        height: Pixels.
        width: Pixels.
        most_upscaling: Images that would have to grow by more than this factor are left out.
    """

    height: int
    width: int
    most_upscaling: float

    def fitted(self, item: CaptionedImage) -> Float[np.ndarray, "3 h w"]:
        """Decode, scale until it covers the size, and cut the middle out; values in [-1, 1].

        Raises:
            ValueError: with the reason why the image cannot be used.
        """
        if not item.caption.strip():
            raise ValueError("has no caption")
        try:
            with Image.open(io.BytesIO(item.content)) as opened:
                # Pillow warns of it; but to make errors of warnings is no matter of one thread.
                if opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                    raise Image.DecompressionBombError
                image = upright_rgb(opened)
        except UNREADABLE as error:
            raise ValueError(f"is no readable image: {type(error).__name__}") from None
        scale = max(self.height / image.height, self.width / image.width)
        if scale > self.most_upscaling:
            raise ValueError(f"has {image.height} x {image.width} pixels, too few")
        size = max(self.width, round(image.width * scale)), max(self.height, round(image.height * scale))
        left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        cut = image.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + self.width, top + self.height))
        return np.asarray(cut, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1


def upright_rgb(opened: Image.Image) -> Image.Image:
    """An image as a viewer shows it: turned as its EXIF says, transparent parts on white, 16 bits of grey as 8.

    Raises:
        ValueError: for pixels of 32 bits, whose range nobody knows.
    """
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) // 257).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        raise ValueError(f"pixels of mode {image.mode}")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
