"""The tiny pipeline of each family as a folder, written once."""

from pathlib import Path

import pytest

from tiny_families import BUILDERS, write_family


@pytest.fixture(scope="session", params=sorted(BUILDERS))
def family(request: pytest.FixtureRequest) -> str:
    """Each family's name in turn."""
    return request.param


@pytest.fixture(scope="session")
def family_folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's pipeline folder."""
    return write_family(family, tmp_path_factory.mktemp("families") / family)
