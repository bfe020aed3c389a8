"""One set of images in a folder, in Parquet and in a tar is the same set."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
