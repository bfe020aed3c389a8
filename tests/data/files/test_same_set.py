"""One set of images in a folder, in Parquet and in a tar is the same set."""

import io
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advdmd_ray.data.files import parquet, tars
from advdmd_ray.data.files.shards import find_shards
from data_sets import Files, Reading, parquet_bytes, read_all, tar_bytes, write_files

IMAGES, SIZES, BROKEN, SILENT = 2000, 60, 20, 10


def generated() -> list[tuple[str, bytes, str]]:
    """Name, content and caption of images of one colour, in sizes from 8 x 6 pixels, of which some cannot be used."""
    draws, made = np.random.default_rng(0), list[tuple[str, bytes, str]]()
    for number in range(IMAGES):
        size = (8 + number % SIZES % 10, 6 + number % SIZES // 10)
        stream = io.BytesIO()
        Image.new("RGB", size, tuple(draws.integers(0, 255, 3).tolist())).save(stream, format="BMP")
        content = stream.getvalue()[:30] if number % (IMAGES // BROKEN) == 3 else stream.getvalue()
        caption = "" if number % (IMAGES // SILENT) == 5 else f"picture {number % 700} of size {size}"
        made.append((f"{number % 7}/{number:04d}", content, caption))
    return made


def members(made: list[tuple[str, bytes, str]]) -> Files:
    return [each for name, image, text in made for each in ((f"{name}.bmp", image), (f"{name}.txt", text))]


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Where the set is in each form, and where its latents are to be."""
    root, made = tmp_path_factory.mktemp("forms"), generated()
    columns = {"image": [image for _, image, _ in made], "text": [text for *_, text in made]}
    write_files(root / "folder", members(made))
    write_files(root / "parquet", [("a.parquet", parquet_bytes(columns, row_group_size=300))])
    write_files(root / "tar", [(f"{n}.tar", tar_bytes(members(made[n::3]))) for n in range(3)])
    return {form: (root / form, root / "latents" / form) for form in ("folder", "parquet", "tar")}


def facts(found: Reading) -> tuple[object, ...]:
    """All that does not hang on names."""
    rows = sorted((caption, round(found.levels[name], 3)) for name, caption in found.captions.items())
    skipped = sorted((each.reason, each.lost) for each in found.ledger.left_out)
    return rows, skipped, found.ledger.used, found.ledger.read, dict(found.ledger.sizes)


def test_it_has_the_same_images_captions_and_sizes_in_every_form_and_is_encoded_once(
    forms: dict[str, tuple[Path, Path]],
) -> None:
    first = {form: read_all(*places) for form, places in forms.items()}
    used = IMAGES - BROKEN - SILENT
    assert [found.coded for found in first.values()] == [used] * len(forms)
    assert len(first["folder"].captions) == used
    assert len(first["folder"].ledger.sizes) == SIZES
    assert all(facts(found) == facts(first["folder"]) for found in first.values())
    for form, places in forms.items():
        again = read_all(*places)
        assert again.coded == 0
        assert facts(again) == facts(first[form])


def test_a_large_file_is_cut_into_shards_that_leave_the_same_set(
    forms: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each item once, in the same order, under the same name."""
    places = {"parquet": forms["parquet"][0], "tar": forms["tar"][0] / "0.tar"}
    whole = {form: find_shards(str(place)).shards for form, place in places.items()}
    monkeypatch.setattr(parquet, "PART_ROWS", 90)
    monkeypatch.setattr(tars, "PART_BYTES", places["tar"].stat().st_size // 5 + 1)
    cut = {form: find_shards(str(place)).shards for form, place in places.items()}
    for form in places:
        items = [[*shard.read()] for shard in cut[form]]
        assert list(chain(*items)) == [item for shard in whole[form] for item in shard.read()]
        shards = (*whole[form], *cut[form])
        assert len({shard.identity for shard in shards}) == len({shard.name for shard in shards}) == len(shards)
        if form == "tar":
            assert [len(some) for some in items] == [133, 133, 134, 133, 134]
        else:
            assert [len(some) for some in items] == [shard.images for shard in cut[form]]
            assert [shard.images for shard in cut[form]] == [90, 90, 90, 30] * 6 + [90, 90, 20]
