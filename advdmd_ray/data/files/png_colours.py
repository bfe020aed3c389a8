"""What a PNG without a profile says that its colours mean, in gAMA and cHRM, which Pillow reads and leaves alone."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image
from PIL.ImageFile import ImageFile

SRGB_GAMMA = 1 / 2.2
SRGB_XY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""White, red, green and blue of sRGB: x and y of each (IEC 61966-2-1)."""
ALIKE = 0.02
"""Exponents and places this near are those of sRGB."""
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""From XYZ to the responses of cones that are scaled from one white to another (Lam 1985)."""
FEW_BITS = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey of 2 and 4 bits by."""
WIDEST = 10.0
"""No display has an exponent beyond this, or one over this."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the bytes of an image stand for.

    Attributes:
        gamma: The exponent that encoded light.
        xy: As `SRGB_XY`, or None: those.
    """

    gamma: float
    xy: tuple[float, ...] | None = None

    def in_srgb(self, image: Image.Image) -> Image.Image:
        """The same colours as sRGB has them, where it has them."""
        light = (np.arange(256) / 255.0) ** (1 / self.gamma)
        if self.xy is None:
            curve = [int(value) for value in _bytes(light)]
            return image.point(curve * 3)
        to_srgb = np.linalg.inv(_to_xyz(SRGB_XY)) @ _white(self.xy[:2], SRGB_XY[:2]) @ _to_xyz(self.xy)
        return Image.fromarray(_bytes(light[np.asarray(image)] @ to_srgb.T))


def png_meaning(image: Image.Image) -> Meaning | None:
    """That of an opened PNG; None: sRGB's, or what a profile says. Viewers obey primaries only beside an exponent."""
    gamma, xy = (image.info.get(key) for key in ("gamma", "chromaticity"))
    told = "srgb" in image.info or "icc_profile" in image.info
    if image.format != "PNG" or told or not isinstance(gamma, float) or not 1 / WIDEST < gamma < WIDEST:
        return None
    own = _primaries(xy)
    return None if own is None and abs(gamma - SRGB_GAMMA) < ALIKE else Meaning(gamma, own)


def scale_transparency(opened: Image.Image) -> None:
    """Says the transparent colour of a PNG in the bits that Pillow gives its pixels; call it before they are loaded."""
    colour = opened.info.get("transparency")
    depth = str(opened.tile[0].args) if opened.format == "PNG" and isinstance(opened, ImageFile) and opened.tile else ""
    if depth in FEW_BITS and isinstance(colour, int):
        opened.info["transparency"] = colour * FEW_BITS[depth]
    elif depth == "RGB;16B" and isinstance(colour, tuple):
        opened.info["transparency"] = tuple(value >> 8 for value in colour)


def _primaries(xy: object) -> tuple[float, ...] | None:
    """Those of a PNG, as `SRGB_XY`, if they make colours and other ones than sRGB's."""
    if not isinstance(xy, tuple) or len(xy) != len(SRGB_XY) or not all(0 < each < 1 for each in xy[1::2]):
        return None
    alike = np.abs(np.subtract(xy, SRGB_XY)).max() < ALIKE
    return None if alike or abs(np.linalg.det(_places(xy))) < ALIKE else xy


def _bytes(light: Float[np.ndarray, "*n"]) -> np.ndarray:
    """Light as sRGB encodes it; what it cannot show is cut off."""
    light = light.clip(0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)  # noqa: PLR2004 - IEC 61966-2-1
    return (encoded * 255).round().astype(np.uint8)


def _places(xy: tuple[float, ...]) -> Float[np.ndarray, "3 3"]:
    """The primaries' x, y and z, one a column."""
    return np.array([(x, y, 1 - x - y) for x, y in zip(xy[2::2], xy[3::2], strict=True)]).T


def _to_xyz(xy: tuple[float, ...]) -> Float[np.ndarray, "3 3"]:
    """From light of the primaries to XYZ, where as much of all is white of brightness 1."""
    places = _places(xy)
    return places * np.linalg.solve(places, _xyz(xy[:2]))


def _xyz(white: tuple[float, ...]) -> Float[np.ndarray, " 3"]:
    x, y = white
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _white(own: tuple[float, ...], other: tuple[float, ...]) -> Float[np.ndarray, "3 3"]:
    """From XYZ under one white to those that look so under the other."""
    scale = (BRADFORD @ _xyz(other)) / (BRADFORD @ _xyz(own))
    return np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD
