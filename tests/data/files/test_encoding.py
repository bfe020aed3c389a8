"""Captioned images become latents once, and what cannot be used is counted by name."""

import errno
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from advdmd_ray.data.files.encoding import BATCH, ArrowLatents, ShardEncoding, cache_folder, encoded_file
from advdmd_ray.data.files.fitting import Fitted, Fitting
from advdmd_ray.data.files.items import CaptionedImage, LeftOut, Shard
from advdmd_ray.data.files.ledger import Ledger, ledger_file, read_ledger
from advdmd_ray.errors import DiskError, UserError
from pictures import picture

SHAPE = (3, 2, 2)
FITTING = Fitting(4, 4, 1.5)


class Codec:
    """Averages 2 x 2 pixels, and counts the images it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 4, 4)
        assert -1 <= float(images.min()) <= float(images.max()) <= 1
        self.seen += len(images)
        return torch.nn.functional.avg_pool2d(images, 2)


def shard(name: str, *items: CaptionedImage) -> Shard:
    return Shard(name, name.ljust(64, "0"), lambda: iter(items))


def item(name: str, value: int = 100, caption: str = "a caption", size: tuple[int, int] = (8, 8)) -> CaptionedImage:
    return CaptionedImage(name, caption, picture(value, size))


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> CaptionedImage:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return CaptionedImage("picture", "a caption", stream.getvalue())


def test_an_image_is_read_as_a_viewer_shows_it() -> None:
    fitting = Fitting(4, 4, 1.0)
    corner = Image.new("RGB", (4, 4), "black")
    corner.putpixel((0, 0), (255, 255, 255))
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right is still to be made
    seen = fitting.fitted(saved(corner, exif=turned)).pixels
    assert seen[0, 0, 3] == 1
    assert seen.sum() == 3 * (1 - 15)

    logo = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    logo.putpixel((1, 2), (0, 0, 0, 255))
    for mode in ("RGBA", "LA"):
        seen = fitting.fitted(saved(logo.convert(mode))).pixels
        assert seen[1, 2, 1] == -1
        assert seen.sum() == 3 * (15 - 1)

    ramp = np.linspace(0, 65535, 16).reshape(4, 4).astype(np.uint16)
    seen = fitting.fitted(saved(Image.fromarray(ramp))).pixels
    assert np.abs(seen - (ramp / 32767.5 - 1)).max() < 0.01

    with pytest.raises(ValueError, match="has pixels of 32 bits"):
        fitting.fitted(saved(Image.new("F", (4, 4)), "TIFF"))


BAD = (
    CaptionedImage("cut.png", "a caption", picture(1)[:40]),
    CaptionedImage("text.png", "a caption", b"no image"),
    item("silent.png", caption=" \n"),
    item("tiny.png", size=(2, 8)),
)


def tasks(shards: list[Shard], folder: Path, most_skipped: int = 10) -> list[ShardEncoding]:
    return [ShardEncoding(each, encoded_file(folder, each), FITTING, SHAPE, most_skipped) for each in shards]


def encoded(
    tmp_path: Path, shards: list[Shard], codec: Codec, most_skipped: int = 10, threads: int = 1
) -> ArrowLatents:
    work = tasks(shards, tmp_path / "latents", most_skipped)
    for task in work:
        task.encode(codec, threads)
    return ArrowLatents([task.file for task in work], SHAPE)


def test_latents_come_back_row_by_row_with_their_captions(tmp_path: Path) -> None:
    shards = [shard("one", *(item(f"{v}.png", v, f"grey  {v}\n") for v in range(10))), shard("two", item("z.png", 200))]
    codec = Codec()
    latents = encoded(tmp_path, shards, codec)
    assert len(latents) == codec.seen == 11
    assert latents.captions == [*(f"grey {v}" for v in range(10)), "a caption"]
    rows = torch.tensor([10, 3, 3, 0])
    expected = torch.tensor([200.0, 3.0, 3.0, 0.0]) / 127.5 - 1
    torch.testing.assert_close(latents[rows], expected.reshape(4, 1, 1, 1).expand(4, *SHAPE))
    latents[rows].zero_()  # a copy: the file is not touched
    torch.testing.assert_close(latents[rows][0, 0, 0, 0], expected[0])


def test_what_is_encoded_is_not_encoded_again_and_a_stop_loses_one_shard_at_most(tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stopping() -> Iterator[CaptionedImage]:
        yield from (item(f"{v}.png") for v in range(9))
        raise StoppedError

    codec, first = Codec(), shard("one", item("a.png"), item("b.png"))
    with pytest.raises(StoppedError):
        encoded(tmp_path, [first, Shard("two", "two", stopping)], codec)
    done = encoded_file(tmp_path / "latents", first)
    assert {*(tmp_path / "latents").iterdir()} == {done, ledger_file(done)}
    again = Codec()
    assert len(encoded(tmp_path, [first, shard("two", item("c.png"))], again)) == 3
    assert again.seen == 1
    third = Codec()
    encoded(tmp_path, [first, shard("two", item("c.png"))], third)
    assert third.seen == 0


def test_images_that_cannot_be_used_are_counted_with_their_reasons_and_left_out(tmp_path: Path) -> None:
    one = shard("one", BAD[0], item("good.png"), *BAD[1:])
    (task,) = tasks([one], tmp_path)
    result = task.encode(Codec())
    ledger = read_ledger(ledger_file(task.file))
    assert (result.images, ledger.used, ledger.read) == (1, 1, len(BAD) + 1)
    reasons = {each.name: each.reason for each in ledger.left_out}
    assert reasons == dict(result.skipped)
    assert reasons == {
        "cut.png": "is no image, or a broken one",
        "text.png": "is no image, or a broken one",
        "silent.png": "has no caption",
        "tiny.png": "has too few pixels (2 x 8)",
    }
    assert all(each.lost for each in ledger.left_out)
    assert ledger.sizes == {"8 x 8": 1}


def test_what_is_no_image_is_counted_too_and_never_ends_it(tmp_path: Path) -> None:
    beside = [LeftOut(f"{number}.md", "is no image", lost=False) for number in range(3 * BATCH)]
    (task,) = tasks([Shard("one", "one", lambda: iter([*beside, item("good.png")]))], tmp_path, most_skipped=0)
    assert task.encode(Codec()).skipped == ()
    ledger = read_ledger(ledger_file(task.file))
    assert (ledger.used, ledger.left_out) == (1, beside)


def test_latents_whose_ledger_is_gone_are_made_again_with_it(tmp_path: Path) -> None:
    (task,) = tasks([shard("one", BAD[0], item("good.png"))], tmp_path)
    task.encode(Codec())
    assert task.done
    ledger_file(task.file).unlink()
    assert not task.done
    assert task.encode(Codec()).images == 1
    assert read_ledger(ledger_file(task.file)).read == 2
    ledger_file(task.file).write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        read_ledger(ledger_file(task.file))


def test_a_codec_that_makes_other_latents_is_told_and_leaves_no_folder(tmp_path: Path) -> None:
    (work,) = tasks([shard("one", item("good.png"))], tmp_path / "latents")
    with pytest.raises(UserError, match=r"into a latent of \(3, 4, 4\), and the transformer takes \(3, 2, 2\)"):
        work.encode(lambda images: torch.zeros(len(images), 3, 4, 4))
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (
            errno.ENOSPC,
            DiskError,
            r"data\.cache .* written \(no space left on device\); what is encoded stays",
        ),
        (
            errno.EACCES,
            UserError,
            r"data\.cache .* written \(Permission denied\); choose another data\.cache",
        ),
    ],
)
def test_a_disk_that_refuses_latents_is_one_line_and_leaves_nothing(
    number: int, kind: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(path: str, mode: str) -> None:
        assert (Path(path).parent.is_dir(), mode) == (True, "wb")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pa, "OSFile", refuses)
    with pytest.raises(kind, match=says):
        encoded(tmp_path, [shard("one", item("good.png"))], Codec(), 3)
    assert not (tmp_path / "latents").exists()


def test_too_many_of_them_end_it_with_their_names_and_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"more than data\.most_skipped=3 images cannot be used: cut\.png"):
        encoded(tmp_path, [shard("one", item("good.png"), *BAD)], Codec(), 3)
    assert not (tmp_path / "latents").exists()


@given(width=st.integers(4, 40), height=st.integers(4, 40))
def test_an_image_of_any_shape_covers_the_size_and_loses_its_longer_sides_alone(width: int, height: int) -> None:
    fitted = FITTING.fitted(item("a.png", 50, size=(width, height))).pixels
    assert fitted.shape == (3, 4, 4)
    np.testing.assert_allclose(fitted, 50 / 127.5 - 1, atol=0.01)


def test_the_middle_of_a_wide_image_is_what_stays() -> None:
    from io import BytesIO  # noqa: PLC0415 - only here

    from PIL import Image  # noqa: PLC0415 - only here

    stripes = np.zeros((4, 12, 3), dtype=np.uint8)
    stripes[:, 4:8] = 255
    stream = BytesIO()
    Image.fromarray(stripes).save(stream, format="PNG")
    np.testing.assert_allclose(FITTING.fitted(CaptionedImage("a", "b", stream.getvalue())).pixels, 1.0)


def test_another_codec_size_or_limit_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = {
        cache_folder(tmp_path, codec, [Fitting(*fitting)])
        for codec in ("a", "b")
        for fitting in ((4, 4, 1.5), (4, 8, 1.5), (8, 4, 1.5), (4, 4, 2.0))
    }
    assert len(folders) == 8


def test_a_damaged_file_or_one_of_another_shape_is_named(tmp_path: Path) -> None:
    (task,) = tasks([shard("one", item("a.png"))], tmp_path)
    assert task.encode(Codec()).images == 1
    files = [task.file]
    with pytest.raises(UserError, match="has no latents of shape 3,4,4"):
        ArrowLatents(files, (3, 4, 4))
    files[0].write_bytes(files[0].read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        ArrowLatents(files, SHAPE)


def test_the_files_are_plain_arrow(tmp_path: Path) -> None:
    (task,) = tasks([shard("one", item("a.png", 0))], tmp_path)
    task.encode(Codec())
    table = pa.ipc.open_file(str(task.file)).read_all()
    assert table.column("name").to_pylist() == ["a.png"]
    assert table.column("latent").to_pylist() == [[-1.0] * 12]


def test_too_many_over_all_shards_are_refused_with_their_names() -> None:
    ledger = Ledger(left_out=[LeftOut(f"{name}.png", "has no caption", lost=name != "x") for name in "abx"])
    ledger.check(2)
    ledger.add(Ledger(left_out=[LeftOut("a.png", "is no readable image", lost=True)]))  # of the same name
    with pytest.raises(UserError, match=r"more than data\.most_skipped=2 images cannot be used: a\.png .*, a\.png"):
        ledger.check(2)


def test_threads_decode_at_the_same_time_and_images_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three threads are inside at once, or the barrier breaks; the first of each three is the last to be done."""
    together, plain = threading.Barrier(3, timeout=5), Fitting.fitted

    def meeting(self: Fitting, one: CaptionedImage) -> Fitted:
        together.wait()
        time.sleep(0.01 * (3 - int(one.name) % 3))
        return plain(self, one)

    monkeypatch.setattr(Fitting, "fitted", meeting)
    items = [item(str(value), 10 * value, f"grey {value}") for value in range(24)]
    latents = encoded(tmp_path, [shard("one", *items)], Codec(), threads=3)
    assert latents.captions == [f"grey {value}" for value in range(24)]
    values = latents[torch.arange(24)][:, 0, 0, 0]
    torch.testing.assert_close(values, torch.arange(24) * 10 / 127.5 - 1)


def test_the_bytes_do_not_hang_on_the_number_of_threads(tmp_path: Path) -> None:
    items = [item(f"{value}.png", value, size=(8 + value, 9)) for value in range(3 * BATCH + 1)]
    items.insert(2, BAD[0])
    for threads in (1, 4):
        encoded(tmp_path / str(threads), [shard("one", *items)], Codec(), threads=threads)
    one, four = ([file.read_bytes() for file in sorted((tmp_path / n / "latents").iterdir())] for n in ("1", "4"))
    assert one == four


@given(images=st.integers(1, 60), threads=st.integers(1, 3))
@settings(deadline=None, max_examples=10)
def test_only_so_many_images_are_ahead_of_the_codec(images: int, threads: int) -> None:
    read, coded = 0, 0

    def reading() -> Iterator[CaptionedImage]:
        nonlocal read
        for number in range(images):
            read += 1
            assert read - coded <= 2 * max(threads, BATCH) + BATCH
            yield item(str(number))

    def codec(pixels: Tensor) -> Tensor:
        nonlocal coded
        coded += len(pixels)
        return torch.nn.functional.avg_pool2d(pixels, 2)

    with tempfile.TemporaryDirectory() as folder:
        (task,) = tasks([Shard("one", "one", reading)], Path(folder))
        assert task.encode(codec, threads).images == coded == images
