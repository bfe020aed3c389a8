"""`advdmd run`: what it hands on."""

import subprocess
import sys
import time

AGE = """
import time
time.sleep(0.5)
from advdmd_ray.cli.run import _age_s
print(_age_s())
"""


def test_the_start_of_a_run_is_counted_from_the_start_of_its_process() -> None:
    began = time.monotonic()
    age = float(subprocess.run([sys.executable, "-c", AGE], check=True, capture_output=True, text=True).stdout)
    assert 0.5 <= age <= time.monotonic() - began
