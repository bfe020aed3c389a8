"""The controller runs over workers that are no workers."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _records(unchecked_records: None) -> None:
    """See there."""
