"""Pictures of samples: plain grids, and a comparison with one row per sampler and one column per prompt.

However large a model's images are, a comparison has a bounded number of pixels, and a large one is a JPEG: a PNG of
sixty photographs of 1024 x 1024 has 100 MB.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from advdmd_ray.evaluation.pictures.sheet import Row, Sheet, note, png_note
from advdmd_ray.files import write_atomically

_GAP = 4
_PAPER = (255, 255, 255)
_INK = (32, 33, 36)
_FRAME = (200, 204, 208)
_TEXT = 16
_SMALL_TEXT = 11
_LINE = 22
MOST_PIXELS = 24_000_000
"""Of all tiles of a comparison: 22 of 1024 x 1024."""
MOST_PNG_PIXELS = 2_000_000
"""A comparison of more is a JPEG."""
_JPEG_QUALITY = 90


def tiles_that_fit(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of tiles that a comparison shows at full size: at most those that are asked for, at least one.

    Args:
        height: Of a tile, pixels.
        width: Likewise.
        rows: Most rows.
        columns: Most columns, which come before rows.
    """
    tile = (height + _GAP) * (width + _GAP)
    columns = max(1, min(columns, MOST_PIXELS // tile))
    return max(1, min(rows, MOST_PIXELS // (tile * columns))), columns


def to_pixels(images: Float[np.ndarray, "n c h w"], scale: int = 1) -> UInt8[np.ndarray, "n hs ws 3"]:
    """Images as 8-bit RGB, enlarged by nearest neighbour.

    Args:
        images: `[n, c, h, w]` with c of 1 or 3; -1 is black and 1 white, values beyond are clipped.
        scale: Whole factor, at least 1, by which height and width grow.

    Raises:
        ValueError: for another number of channels, a scale below 1, or values that are not finite.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {images.shape[1]}")
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    if not np.isfinite(images).all():
        raise ValueError("images must be finite")
    pixels = np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    pixels = pixels.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels


def save_grid(
    path: Path,
    images: Float[np.ndarray, "n c h w"],
    *,
    columns: int = 10,
    scale: int | None = None,
    caption: str = "",
) -> Path:
    """Writes images as one PNG, row by row.

    Args:
        path: Where the PNG goes; the folder is made.
        images: `[n, c, h, w]` in [-1, 1], c of 1 or 3, n at least 1.
        columns: Images in a row, at least 1.
        scale: Enlargement of one pixel; None enlarges small images to about 48 pixels.
        caption: One line above the grid.

    Returns:
        The path.
    """
    return _save_png(path, _grid(images, columns, scale, caption))


def save_grids(
    path: Path, grids: Sequence[tuple[str, Float[np.ndarray, "n c _ _"]]], *, columns: int, caption: str
) -> Path:
    """Writes images of several sizes as one PNG, the grid of each size below the other.

    Args:
        path: Where the PNG goes; the folder is made.
        grids: A line above each grid, and its images as in `save_grid`.
        columns: Images in a row, at least 1.
        caption: One line above all.

    Returns:
        The path.
    """
    lines = [f"{caption}; {grids[0][0]}", *(line for line, _ in grids[1:])]
    boards = [_grid(images, columns, None, line) for line, (_, images) in zip(lines, grids, strict=True)]
    whole = Image.new("RGB", (max(board.width for board in boards), sum(board.height for board in boards)), _PAPER)
    top = 0
    for board in boards:
        whole.paste(board, (0, top))
        top += board.height
    return _save_png(path, whole)


def _grid(images: Float[np.ndarray, "n c h w"], columns: int, scale: int | None, caption: str) -> Image.Image:
    if len(images) < 1 or columns < 1:
        raise ValueError(f"a grid needs at least 1 image and 1 column, got {len(images)} and {columns}")
    tiles = to_pixels(images, _enlargement(images, 48) if scale is None else scale)
    count, height, width, _ = tiles.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    top = _LINE if caption else 0
    font = _font()
    board_width = max(columns * (width + _GAP) + _GAP, round(font.getlength(caption)) + 2 * _GAP)
    board = Image.new("RGB", (board_width, top + rows * (height + _GAP) + _GAP), _PAPER)
    if caption:
        ImageDraw.Draw(board).text((_GAP, 2), caption, fill=_INK, font=font)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        _place(board, tile, _GAP + column * (width + _GAP), top + _GAP + row * (height + _GAP))
    return board


def comparison_grid(
    path: Path,
    samplers: Mapping[str, Float[np.ndarray, "n c h w"]],
    prompts: Sequence[str],
    *,
    scale: int | None = None,
) -> Path:
    """Writes samplers below each other and prompts beside each other, labelled, as one picture.

    Tiles that would be more than `MOST_PIXELS` are made smaller. The file says where they lie, see `read_sheet`.

    Args:
        path: Where the PNG goes; a picture of more than `MOST_PNG_PIXELS` is a JPEG beside it, `.jpg`. The folder is
            made.
        samplers: Label of each row, such as `teacher, 40 steps`, with its images `[n, c, h, w]` in [-1, 1]. Image i
            belongs to prompt `i % len(prompts)`; a multiple of `len(prompts)` gives several rows a sampler.
        prompts: Label of each column.
        scale: Enlargement of one pixel; None enlarges small images to about 80 pixels.

    Returns:
        The path of the picture.

    Raises:
        ValueError: if nothing is given, image shapes differ, or a sampler's images do not fill whole rows.
    """
    _check_comparison(samplers, len(prompts))
    columns = len(prompts)
    first = next(iter(samplers.values()))
    factor = _enlargement(first, 80) if scale is None else scale
    rows = sum(len(images) // columns for images in samplers.values())
    height, width = _tile_size(first.shape[2] * factor, first.shape[3] * factor, rows * columns)
    font = _font()
    left = max(round(font.getlength(label)) for label in samplers) + 4 * _GAP
    head_font = _font_for([word for prompt in prompts for word in prompt.split()], width)
    heads = [_wrap(prompt, width, head_font) for prompt in prompts]
    top = max(len(lines) for lines in heads) * _LINE + 2 * _GAP
    size = (left + columns * (width + _GAP) + _GAP, top + rows * (height + _GAP) + len(samplers) * 2 * _GAP)
    board = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(board)
    for column, lines in enumerate(heads):
        middle = left + column * (width + _GAP) + width / 2
        for number, line in enumerate(lines):
            draw.text((middle, _GAP + number * _LINE), line, fill=_INK, font=head_font, anchor="ma")
    y, drawn = top, list[Row]()
    for label, images in samplers.items():
        drawn.append(Row(label, y, len(images) // columns))
        block = len(images) // columns * (height + _GAP)
        draw.text((2 * _GAP, y + block / 2), label, fill=_INK, font=font, anchor="lm")
        for index in range(len(images)):
            row, column = divmod(index, columns)
            tile = _resized(to_pixels(images[index : index + 1], factor)[0], height, width)
            _place(board, tile, left + column * (width + _GAP), y + row * (height + _GAP))
        y += block + 2 * _GAP
    sheet = Sheet(tuple(prompts), tuple(drawn), left, width, height, _GAP, factor)
    large = board.width * board.height > MOST_PNG_PIXELS
    return _save_jpeg(path.with_suffix(".jpg"), board, sheet) if large else _save_png(path, board, sheet)


def _check_comparison(samplers: Mapping[str, np.ndarray], columns: int) -> None:
    if not samplers or not columns:
        raise ValueError("a comparison needs at least one sampler and one prompt")
    shapes = {images.shape[1:] for images in samplers.values()}
    if len(shapes) > 1:
        raise ValueError(f"all samplers must give images of one shape, got {sorted(shapes)}")
    for label, images in samplers.items():
        if len(images) < 1 or len(images) % columns:
            raise ValueError(f"{label}: {len(images)} images do not fill rows of {columns} prompts")


def column_labels(prompts: Sequence[str]) -> list[str]:
    """Prompts without the words that all of them begin with; a single one whole."""
    words = [prompt.split() for prompt in prompts]
    shared = 0
    while len(words) > 1 and all(len(own) > shared + 1 and own[shared] == words[0][shared] for own in words):
        shared += 1
    return [" ".join(own[shared:]) for own in words]


def _place(board: Image.Image, tile: UInt8[np.ndarray, "h w 3"], x: int, y: int) -> None:
    """Pastes one image with a thin frame around it, so that a white one has an edge."""
    height, width = tile.shape[:2]
    ImageDraw.Draw(board).rectangle((x - 1, y - 1, x + width, y + height), outline=_FRAME)
    board.paste(Image.fromarray(tile), (x, y))


def _tile_size(height: int, width: int, tiles: int) -> tuple[int, int]:
    """Height and width of a tile of a picture that has so many of them."""
    shrink = min(1.0, math.sqrt(MOST_PIXELS / (height * width * tiles)))
    return max(1, int(height * shrink)), max(1, int(width * shrink))


def _resized(tile: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "hs ws 3"]:
    if tile.shape[:2] == (height, width):
        return tile
    return np.asarray(Image.fromarray(tile).resize((width, height), Image.Resampling.LANCZOS))


def _enlargement(images: np.ndarray, pixels: int) -> int:
    """The factor that brings a small image to about `pixels` a side; 1 for larger ones."""
    return max(1, round(pixels / max(images.shape[2:])))


def _font(size: int = _TEXT) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib ships, so that pictures look alike on every machine."""
    import matplotlib as mpl

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _font_for(words: Sequence[str], width: int) -> ImageFont.FreeTypeFont:
    """The largest font that fits the longest word into `width` pixels, not below what can be read."""
    sizes = (_font(size) for size in range(_TEXT, _SMALL_TEXT, -1))
    return next((f for f in sizes if all(f.getlength(word) <= width for word in words)), _font(_SMALL_TEXT))


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont, limit: int = 9) -> list[str]:
    """Words in lines no wider than `width` pixels, at most `limit` lines; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    if len(lines) > limit:
        lines = [*lines[: limit - 1], f"{lines[limit - 1]}…"]
    return [_cut(line, width, font) for line in lines]


def _cut(line: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    kept = line
    while len(kept) > 1 and font.getlength(kept) > width:
        kept = f"{kept.removesuffix('…')[:-1]}…"
    return kept


def _save_png(path: Path, board: Image.Image, sheet: Sheet | None = None) -> Path:
    buffer = io.BytesIO()
    board.save(buffer, format="PNG", optimize=True, pnginfo=None if sheet is None else png_note(sheet))
    return write_atomically(Path(path), buffer.getvalue())


def _save_jpeg(path: Path, board: Image.Image, sheet: Sheet) -> Path:
    buffer = io.BytesIO()
    board.save(buffer, format="JPEG", quality=_JPEG_QUALITY, comment=note(sheet))
    return write_atomically(path, buffer.getvalue())
