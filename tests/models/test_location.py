"""Where a pipeline is: in the package, on disk, or in the cache of the Hugging Face hub."""

import shutil
from pathlib import Path

import pytest

from advdmd_ray.errors import UserError
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.location import resolve_model_path
from advdmd_ray.models.pipeline import load_denoiser

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def _downloaded(cache: Path, folder: Path) -> Path:
    """The folder as a download of `owner/tiny-model` leaves it: links, by revision, into a heap of files."""
    model = cache / "models--owner--tiny-model"
    snapshot, blobs = model / "snapshots" / REVISION, model / "blobs"
    blobs.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(REVISION)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        shutil.copy(file, blobs / str(number))
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    return snapshot


def test_a_downloaded_model_goes_by_its_name(cache: Path, tiny_pipeline: Path) -> None:
    snapshot = _downloaded(cache, tiny_pipeline)
    assert inspect_pipeline("owner/tiny-model").folder == snapshot
    assert inspect_pipeline("owner/tiny-model").layers == inspect_pipeline(tiny_pipeline).layers
    load_denoiser("owner/tiny-model")


def test_a_model_that_is_not_downloaded_is_refused_with_the_command_that_does_it(cache: Path) -> None:
    with pytest.raises(UserError, match=r"download it on every node by `hf download owner/other`") as refusal:
        resolve_model_path("owner/other")
    assert str(cache) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_of_that_name_goes_first(cache: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _downloaded(cache, tiny_pipeline)
    monkeypatch.chdir(cache.parent)
    Path("owner/tiny-model").mkdir(parents=True)
    assert resolve_model_path("owner/tiny-model") == Path("owner/tiny-model")


@pytest.mark.parametrize("path", ["/none/at/all", "none", "./owner/model", "a/b/c", "~/none/here"])
def test_what_is_neither_is_no_such_folder(path: str) -> None:
    with pytest.raises(UserError, match=r"no such folder; give a diffusers pipeline folder or builtin:digits"):
        resolve_model_path(path)


def test_an_unknown_builtin_model_is_refused() -> None:
    with pytest.raises(UserError, match="no such built-in model; use one of: builtin:digits, builtin:shapes"):
        resolve_model_path("builtin:letters")
