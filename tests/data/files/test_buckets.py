"""Images of many shapes in few sizes: which size an image gets, and that it hangs on nothing but its shape."""

import io
import math
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from advdmd_ray.config import Config
from advdmd_ray.data.encoding import encode_here
from advdmd_ray.data.files.buckets import Bucket, nearest
from advdmd_ray.data.files.fitting import Fitting
from advdmd_ray.data.files.source import FilesSource
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges import thumbnails
from tiny_families import write_family

SIZES = [(16, 32), (32, 16), (16, 16)]
IMAGES = 144
SIDES = st.integers(8, 400)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("sd3", tmp_path_factory.mktemp("buckets") / "teacher")


def buckets_of(*sizes: tuple[int, int]) -> tuple[Bucket, ...]:
    return tuple(Bucket(Fitting(height, width, 1.5), (1, 1, 1)) for height, width in sizes)


def picture(height: int, width: int) -> Image.Image:
    return Image.new("RGB", (width, height))


@given(height=SIDES, width=SIDES, sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=6, unique=True))
def test_an_image_gets_the_size_of_the_nearest_ratio_and_its_mirror_image_the_mirrored_size(
    height: int, width: int, sizes: list[tuple[int, int]]
) -> None:
    def distance(size: tuple[int, int]) -> float:
        return abs(math.log((height / width) / (size[0] / size[1])))

    found = sizes[nearest(buckets_of(*sizes), picture(height, width))]
    assert distance(found) == pytest.approx(min(map(distance, sizes)))
    turned = nearest(buckets_of(*((width, height) for height, width in sizes)), picture(width, height))
    assert distance(sizes[turned]) == pytest.approx(distance(found))


@pytest.mark.parametrize(
    ("side", "size"), [(100, (64, 64)), (64, (64, 64)), (63, (32, 32)), (20, (32, 32)), (999, (128, 128))]
)
def test_of_sizes_of_one_ratio_it_is_the_largest_for_which_it_need_not_grow(side: int, size: tuple[int, int]) -> None:
    sizes = [(128, 128), (32, 32), (64, 64), (32, 128)]
    assert sizes[nearest(buckets_of(*sizes), picture(side, side))] == size


def drawn() -> list[tuple[str, str, bytes]]:
    """Name, caption and file of images of 60 shapes, none of which needs to grow, and of one that is too small."""
    draws, made = np.random.default_rng(0), list[tuple[str, str, bytes]]()
    for number in range(IMAGES + 1):
        height, width = SIZES[number % 3]
        shape = (2 * height + number % 5, 2 * width + number % 4) if number < IMAGES else (8, 16)
        stream = io.BytesIO()
        Image.fromarray(draws.integers(0, 255, (*shape, 3), dtype=np.uint8)).save(stream, format="PNG")
        made.append((f"{number:04d}", f"picture {number * 7 % 11}", stream.getvalue()))
    return made


def as_folder(place: Path, images: Sequence[tuple[str, str, bytes]]) -> Path:
    place.mkdir()
    for name, caption, content in images:
        (place / f"{name}.png").write_bytes(content)
        (place / f"{name}.txt").write_text(caption)
    return place


def as_tars(place: Path, images: Sequence[tuple[str, str, bytes]]) -> Path:
    place.mkdir()
    for number in range(2):
        with tarfile.open(place / f"{number}.tar", "w") as tar:
            for name, caption, content in images[number * 80 :][:80] if number == 0 else images[80:]:
                for suffix, data in (("png", content), ("txt", caption.encode())):
                    entry = tarfile.TarInfo(f"{name}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return place


def as_parquet(place: Path, images: Sequence[tuple[str, str, bytes]]) -> Path:
    columns = {"image": [{"bytes": content, "path": name} for name, _, content in images]}
    pq.write_table(pa.table({**columns, "text": [caption for _, caption, _ in images]}), place, row_group_size=50)
    return place


def source_at(path: Path, teacher: Path, **data: Any) -> FilesSource:
    given = {"source": "files", "path": str(path), "cache": str(path.parent / f"latents-{path.name}"), "buckets": SIZES}
    return FilesSource(Config.model_validate({"model": {"path": str(teacher)}, "data": given | data}))


def prepared(source: FilesSource) -> str:
    source.check()
    tasks = pickle.loads(pickle.dumps(source.to_encode()))  # noqa: S301 - just made; they travel to workers so
    return source.encoded(encode_here(source.config, tasks))


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> dict[Path, str]:
    """One set as a folder, a Parquet file and tars, all encoded, and what was told of each."""
    place, images = tmp_path_factory.mktemp("forms"), drawn()
    made = [
        as_folder(place / "folder", images),
        as_parquet(place / "set.parquet", images),
        as_tars(place / "tars", images),
    ]
    return {path: prepared(source_at(path, teacher)) for path in made}


def test_a_set_has_the_same_images_captions_and_sizes_as_folder_parquet_and_tars(
    forms: dict[Path, str], teacher: Path
) -> None:
    captions, latents = [caption for _, caption, _ in drawn()[:IMAGES]], []
    for path, told in forms.items():
        assert told.startswith("144 real images with 11 captions: read 145, used 144, skipped 1\n")
        assert "1 skipped: has too few pixels: " in told
        assert told.endswith("\n  cut to height x width: 48 of 16 x 32, 48 of 32 x 16, 48 of 16 x 16")
        again = source_at(path, teacher)
        assert again.to_encode() == []
        assert again.bucket_images() == (48, 48, 48)
        assert again.judge().headline == "frechet"
        latents.append(again.latents())
    for theirs in latents:
        assert theirs.captions == captions
        assert theirs.sizes.tolist() == [number % 3 for number in range(IMAGES)]
        torch.testing.assert_close(theirs.thumbnails, latents[0].thumbnails)
        for size, (height, width) in enumerate(SIZES):
            rows = (theirs.sizes == size).nonzero().squeeze(1)
            assert theirs[rows].shape[2:] == (height // 8, width // 8)
            torch.testing.assert_close(theirs[rows], latents[0][rows], atol=1e-5, rtol=1e-4)


def test_what_was_cut_away_is_kept_beside_each_latent(forms: dict[Path, str]) -> None:
    folder = next(iter(forms))
    (file,) = (folder.parent / "latents-folder").rglob("*.arrow")
    rows = pa.ipc.open_file(pa.memory_map(str(file))).read_all().to_pylist()
    assert sorted(row["place"] for row in rows) == [*range(IMAGES)]
    for row in rows:
        number = row["place"]
        height, width = SIZES[number % 3]
        assert (row["height"], row["width"]) == (2 * height + number % 5, 2 * width + number % 4)
        scale = max(height / row["height"], width / row["width"])
        assert row["top"] == pytest.approx((scale * row["height"] - height) / 2, abs=1)
        assert row["left"] == pytest.approx((scale * row["width"] - width) / 2, abs=1)
        assert row["bucket"] == number % 3


def test_a_size_with_too_few_images_is_named_once_all_are_read(
    forms: dict[Path, str], teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "LEAST_IMAGES", 49)
    source = source_at(next(iter(forms)), teacher)
    said = r"data\.buckets: of the images that can be used 48 of 16 x 32, 48 of 32 x 16, 48 of 16 x 16 are too few"
    with pytest.raises(UserError, match=said):
        source.encoded([])
