"""The tiny pipeline of each family: as a folder, written once, and in memory, loaded once."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from advdmd_ray.models.families.base import Pipeline
from advdmd_ray.models.pipeline import load_pipeline
from tiny_families import BUILDERS, with_euler, write_family


@pytest.fixture(scope="session", params=sorted(BUILDERS))
def family(request: pytest.FixtureRequest) -> str:
    """Each family's name in turn."""
    return request.param


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders by family, which stay when the next family has its turn."""
    home = tmp_path_factory.mktemp("families")
    return functools.cache(lambda name: write_family(name, home / name))


@pytest.fixture(scope="session")
def family_folder(family: str, folder_of: Callable[[str], Path]) -> Path:
    """The family's pipeline folder."""
    return folder_of(family)


@pytest.fixture(scope="session")
def pipeline_of(folder_of: Callable[[str], Path]) -> Callable[[str], Pipeline]:
    """Loaded pipelines by family."""
    return functools.cache(lambda name: with_euler(load_pipeline(folder_of(name)), folder_of(name)))


@pytest.fixture(scope="session")
def family_pipeline(family: str, pipeline_of: Callable[[str], Pipeline]) -> Pipeline:
    """The family's pipeline; a test that changes it loads one of its own."""
    return pipeline_of(family)
