"""Work in a process of its own gives its result or its error, and its process may end as it likes."""

import math
import os
import signal
from functools import partial

import pytest

from advdmd_ray.config import read_config
from advdmd_ray.errors import UserError, WorkerLostError
from advdmd_ray.runs.alone import in_its_own_process


def test_a_result_and_an_error_of_ours_come_back() -> None:
    assert in_its_own_process(partial(math.sqrt, 9.0)) == 3.0
    with pytest.raises(UserError, match="absent: no such config file"):
        in_its_own_process(partial(read_config, "absent"))


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (partial(signal.raise_signal, signal.SIGKILL), "by SIGKILL"),
        (partial(signal.raise_signal, signal.SIGSEGV), "by SIGSEGV"),
        (partial(os._exit, 7), "with exit code 7"),
    ],
)
def test_a_process_that_ends_is_told_with_the_way_it_did(end: "partial[None]", how: str) -> None:
    with pytest.raises(WorkerLostError, match=how):
        in_its_own_process(end)
