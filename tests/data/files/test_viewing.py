"""An image is what a viewer shows of it, whole or not at all, whatever format it has."""

import io
import itertools
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from advdmd_ray.data.files.fitting import Fitting
from advdmd_ray.data.files.items import CaptionedImage

FITTING = Fitting(17, 23, 1.0)
BIG = Image.fromarray(np.random.default_rng(0).integers(0, 255, (17, 23, 3), dtype=np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def shown(content: bytes, fitting: Fitting = FITTING) -> np.ndarray:
    """The bytes of the pixels that are learnt, height x width x channels."""
    pixels = fitting.fitted(CaptionedImage("a", "a fox", content)).pixels
    return ((pixels.transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)


def oriented(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    return exif


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_an_image_is_turned_as_its_exif_says(kind: str) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {}
    for number in range(10):
        content = saved(BIG, kind, exif=oriented(number), **lossless)
        with Image.open(io.BytesIO(content)) as opened:
            expected = ImageOps.exif_transpose(opened).convert("RGB")
        np.testing.assert_array_equal(
            shown(content, Fitting(expected.height, expected.width, 1.0)), np.asarray(expected)
        )


def test_exif_that_is_none_is_passed_over_as_viewers_do() -> None:
    for kind, exif in (("PNG", b"junk"), ("WEBP", b"Exif\0\0junkjunk"), ("JPEG", b"Exif\0\0MM")):
        more = {"lossless": True} if kind == "WEBP" else {"quality": 100}
        with_junk, without = (shown(saved(BIG, kind, **more, **extra)) for extra in ({"exif": exif}, {}))
        np.testing.assert_array_equal(with_junk, without)


def profile(swapped: tuple[bytes, bytes] | None = None) -> bytes:
    """The profile sRGB under another name, with two of its primaries swapped."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"s\0R\0G\0B", b"m\0i\0n\0e")
    made = made.replace(b"sRGB", b"mine")
    if swapped is None:
        return made
    return made.replace(swapped[0], b"?XYZ").replace(swapped[1], swapped[0]).replace(b"?XYZ", swapped[1])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_colours_are_those_that_their_profile_means(kind: str) -> None:
    red = Image.new("RGB", (23, 17), (250, 20, 20))
    swapped = profile((b"rXYZ", b"bXYZ"))
    np.testing.assert_allclose(shown(saved(red, kind, icc_profile=swapped))[8, 11], (20, 20, 250), atol=6)
    np.testing.assert_allclose(shown(saved(red, kind, icc_profile=profile()))[8, 11], (250, 20, 20), atol=6)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "CMYK"])
def test_a_profile_counts_in_every_mode_that_it_is_about(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    plain = Image.new("RGB", (23, 17), (250, 20, 20)).convert(mode)
    before, after = (
        shown(saved(plain, kind, **extra))[8, 11] for extra in ({}, {"icc_profile": profile((b"rXYZ", b"bXYZ"))})
    )
    about = mode in {"RGBA", "P"}  # of grey both are one, and ink has profiles of its own
    np.testing.assert_allclose(after, before[::-1] if about else before, atol=6)


def test_a_profile_is_what_it_means_and_not_what_it_is_called() -> None:
    linear = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entry = linear.index(b"rTRC")  # of all three colours
    start, size = (int.from_bytes(linear[entry + 4 + at : entry + 8 + at]) for at in (0, 4))
    linear[start : start + size] = b"curv".ljust(size, b"\0")
    half = Image.new("RGB", (23, 17), (128, 0, 255))
    np.testing.assert_allclose(shown(saved(half, "PNG", icc_profile=bytes(linear)))[8, 11], (188, 0, 255), atol=1)
    usual = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(shown(saved(BIG, "PNG", icc_profile=usual)), np.asarray(BIG))


def test_a_profile_that_is_none_is_passed_over() -> None:
    for damaged in (b"", b"no profile", profile()[:200], profile().replace(b"RGB ", b"R\xfcB ", 1)):
        np.testing.assert_array_equal(shown(saved(BIG, "PNG", icc_profile=damaged)), np.asarray(BIG))


def png_with(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    extra = PngImagePlugin.PngInfo()
    for name, data in chunks:
        extra.add(name, data)
    return saved(image, "PNG", pnginfo=extra)


def test_the_gamma_of_a_png_is_obeyed_where_nothing_else_says_what_colours_mean() -> None:
    half = Image.new("RGB", (23, 17), (128, 128, 0))
    linear, usual, standard = (b"gAMA", (100000).to_bytes(4)), (b"gAMA", (45455).to_bytes(4)), (b"sRGB", b"\0")
    np.testing.assert_array_equal(shown(png_with(half, linear))[8, 11], (188, 188, 0))  # half the light
    np.testing.assert_array_equal(shown(png_with(half, usual))[8, 11], (128, 128, 0))
    np.testing.assert_array_equal(shown(png_with(half, standard, linear))[8, 11], (128, 128, 0))


def chromaticities(*xy: float) -> tuple[bytes, bytes]:
    return b"cHRM", b"".join(round(100_000 * each).to_bytes(4) for each in xy)


def test_the_primaries_of_a_png_are_obeyed_beside_its_gamma() -> None:
    colours = Image.new("RGB", (23, 17), (250, 60, 20))
    white, red, green, blue = (0.3127, 0.329), (0.64, 0.33), (0.3, 0.6), (0.15, 0.06)
    usual, own = (b"gAMA", (45455).to_bytes(4)), chromaticities(*white, *red, *green, *blue)
    swapped, warm = chromaticities(*white, *blue, *green, *red), chromaticities(0.34567, 0.3585, *red, *green, *blue)
    flat = chromaticities(*white, *red, *red, *red)
    for chunks, expected in (
        ((usual, own), (250, 60, 20)),
        ((usual, swapped), (20, 60, 250)),
        ((swapped,), (250, 60, 20)),
        (((b"sRGB", b"\0"), usual, swapped), (250, 60, 20)),
        ((usual, flat), (250, 60, 20)),
    ):
        np.testing.assert_allclose(shown(png_with(colours, *chunks))[8, 11], expected, atol=10)  # dark ones differ
    # White is what its own white point says, and stays white; ProPhoto's green is beyond what sRGB shows.
    np.testing.assert_array_equal(shown(png_with(Image.new("RGB", (23, 17), "white"), usual, warm)), 255)
    wide = chromaticities(*white, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)
    np.testing.assert_array_equal(
        shown(png_with(Image.new("RGB", (23, 17), (0, 255, 0)), usual, wide))[8, 11], (0, 255, 0)
    )


def test_what_is_transparent_is_white_in_every_mode() -> None:
    corner = np.zeros((17, 23, 4), dtype=np.uint8)
    corner[:8, :, 3] = 255
    rgba = Image.fromarray(corner)
    expected = np.where(corner[..., 3:] > 0, 0, 255).astype(np.uint8).repeat(3, axis=2)
    palette = Image.fromarray((corner[..., 3] == 0).astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 9, 9, 9])
    deep = Image.fromarray(np.where(corner[..., 3] > 0, 0, 7).astype(np.uint16))
    contents = [saved(rgba, kind, **more) for kind, more in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}))]
    contents += [
        saved(rgba.convert("LA"), "PNG"),
        saved(palette, "PNG", transparency=1),
        saved(palette, "GIF", transparency=1),
    ]
    contents += [saved(deep, "PNG", transparency=7)]
    for content in contents:
        np.testing.assert_array_equal(shown(content), expected)


def raw_png(bits: int, colours: int, row: bytes, transparent: bytes) -> bytes:
    """A PNG as Pillow does not write it, of 17 equal rows."""
    begin, pixels = struct.pack(">IIBBBBB", 23, 17, bits, colours, 0, 0, 0), zlib.compress((b"\0" + row) * 17)
    parts = ((b"IHDR", begin), (b"tRNS", transparent), (b"IDAT", pixels), (b"IEND", b""))
    chunks = (len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4) for name, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_transparent_colour_is_one_of_the_files_own_bits() -> None:
    for bits, row, other in ((1, b"\0" * 3, 1), (2, b"\x55" * 6, 2), (4, b"\x55" * 12, 6), (8, b"\5" * 23, 6)):
        own = 0 if bits == 1 else 1 if bits == 2 else 5
        assert (shown(raw_png(bits, 0, row, own.to_bytes(2))) == 255).all(), bits
        assert (shown(raw_png(bits, 0, row, other.to_bytes(2))) < 100).all(), bits
    deep = b"\x12\x34\x56\x78\x9a\xbc"
    assert (shown(raw_png(16, 2, deep * 23, deep)) == 255).all()
    assert (shown(raw_png(16, 2, deep * 23, b"\0\x12\0\x56\0\x9a"))[8, 11] == (0x12, 0x56, 0x9A)).all()


def test_grey_of_more_than_8_bits_is_white_at_its_most() -> None:
    for most, value, expected in ((65535, 65535, 255), (65535, 32896, 128), (1023, 1023, 255), (4095, 1024, 63)):
        assert (shown(b"P5 23 17 %d\n" % most + value.to_bytes(2) * 391) == expected).all()
    tags = {256: 24, 257: 17, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 17, 279: 24 * 17 * 3 // 2}
    for pixels, expected in ((b"\xff\xff\xff", 255), (b"\x80\x08\x00", 127)):  # two of them
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        content = b"II*\0" + struct.pack("<I", 8 + 612) + pixels * 204 + struct.pack("<H", 9) + entries + bytes(4)
        assert (shown(content, Fitting(17, 24, 1.0)) == expected).all()


def test_bytes_that_fill_a_jpeg_between_its_segments_are_passed_over() -> None:
    content = saved(BIG, "JPEG")
    np.testing.assert_array_equal(shown(content[:2] + b"\xff" * 3 + content[2:]), shown(content))
    with pytest.raises(ValueError, match=r"ends too early|is no readable image"):
        shown(content[:2] + b"\xff" * 3 + content[2:-2])


def test_pixels_of_every_kind_are_bytes_of_three_colours() -> None:
    grey = BIG.convert("L")
    values = np.asarray(grey)
    deep = Image.fromarray(values.astype(np.uint16) * 257)
    inverted = bytearray(saved(Image.fromarray(65535 - values.astype(np.uint16) * 257), "TIFF"))
    tag = inverted.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    inverted[tag + 8] = 0  # white is zero
    for content in (
        saved(grey, "PNG"),
        saved(deep, "PNG"),
        saved(deep, "TIFF"),
        bytes(inverted),
        saved(grey, "JPEG2000"),
    ):
        np.testing.assert_array_equal(shown(content), values[..., None].repeat(3, axis=2))
    bits = grey.convert("1")
    np.testing.assert_array_equal(shown(saved(bits, "PNG"))[..., 0], np.asarray(bits.convert("L")))
    lab = ImageCms.applyTransform(
        BIG, ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    )
    assert lab is not None
    assert np.abs(shown(saved(lab, "TIFF")).astype(int) - np.asarray(BIG)).mean() < 6
    with pytest.raises(ValueError, match=r"has pixels of 32 bits, whose range nobody knows \(mode F\)"):
        shown(saved(Image.new("F", (23, 17)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_the_first_of_several_pictures_is_used_and_that_is_told(kind: str) -> None:
    frames = [Image.new("RGB", (23, 17), (value, value, value)) for value in (200, 100, 50)]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    fitted = FITTING.fitted(CaptionedImage("a", "a fox", content))
    assert fitted.several
    np.testing.assert_allclose(fitted.pixels, 200 / 127.5 - 1, atol=0.03)
    assert not FITTING.fitted(CaptionedImage("a", "a fox", saved(frames[0], "PNG"))).several


def test_a_grey_model_has_one_channel_of_any_image() -> None:
    expected = np.asarray(BIG.convert("L"))[..., None]
    np.testing.assert_array_equal(shown(saved(BIG, "PNG"), Fitting(17, 23, 1.0, channels=1)), expected)


EVERY = {
    "JPEG": {}, "PNG": {}, "GIF": {}, "BMP": {}, "TIFF": {}, "TIFF lzw": {"compression": "tiff_lzw"}, "WEBP": {},
    "WEBP lossless": {"lossless": True}, "AVIF": {}, "JPEG2000": {}, "PPM": {}, "QOI": {},
    "JPEG scans": {"progressive": True},
}  # fmt: skip
HIDE_ZEROS = {"BMP", "TIFF", "PPM"}
"""Black pixels are zeros in these: nobody can tell."""


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken metadata
@pytest.mark.parametrize("name", EVERY)
def test_a_file_that_is_cut_anywhere_is_refused_or_shows_the_very_same(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    kind = name.split(maxsplit=1)[0]
    whole = saved(BIG.resize((46, 34)), kind, **EVERY[name])
    fitting = Fitting(34, 46, 1.0)
    expected = shown(whole, fitting)
    places = sorted({0, 1, *range(2, len(whole), max(1, len(whole) // 16)), len(whole) - 2, len(whole) - 1})
    for place, filled in itertools.product(places, (False, True)):
        if filled and (kind in HIDE_ZEROS or len(whole) - place < 300):
            continue
        content = whole[:place] + bytes(len(whole) - place if filled else 0)
        try:
            assert np.array_equal(shown(content, fitting), expected), (place, filled)
        except ValueError as error:
            assert str(error).startswith(("is no", "is empty", "ends too early", "has too few", "has more")), error  # noqa: PT017 - or none
    capfd.readouterr()  # libtiff's own words


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken metadata
@pytest.mark.parametrize("name", EVERY)
def test_a_damaged_file_is_shown_or_refused_and_never_ends_a_run(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    draws, whole = random.Random(name), saved(BIG, name.split(maxsplit=1)[0], **EVERY[name])  # noqa: S311 - no secret
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(draws.choice((1, 3, 9))):
            content[draws.randrange(min(len(content), draws.choice((60, 10_000))))] = draws.randrange(256)
        try:
            assert shown(bytes(content)).shape == (17, 23, 3)
        except ValueError as error:
            assert str(error)  # noqa: PT017 - or none
    capfd.readouterr()
