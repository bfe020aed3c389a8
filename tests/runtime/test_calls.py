"""An answer that does not come is told with what was waited for and what to do."""

from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError

from advdmd_ray.errors import DeadlineError
from advdmd_ray.runtime.calls import MORE_TIME, answer


@pytest.mark.parametrize(
    ("remedy", "says"), [("", "waited 7 s for it"), (MORE_TIME, f"waited 7 s for it; {MORE_TIME}")]
)
def test_a_wait_in_vain_says_what_helps(remedy: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(reference: Any, timeout: float) -> None:
        assert (reference, timeout) == ("ticket", 7.0)
        raise GetTimeoutError

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(DeadlineError) as told:
        answer("ticket", "it", 7.0, remedy)  # type: ignore[arg-type]
    assert str(told.value) == says
