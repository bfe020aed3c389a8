"""A cluster that does not answer is one line, of a run and of the doctor."""

import sys

import pytest

from ports import free_port
from ray_runs import workplace, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
DOCTOR = [sys.executable, "-c", "import sys; from advdmd_ray.cli import main; sys.exit(main(sys.argv[1:]))", "doctor"]


@pytest.mark.wide  # tests/cli/test_bad_input.py has the same of ray.address
def test_a_cluster_that_does_not_answer_is_one_line_and_exit_code_2() -> None:
    with workplace() as place:
        port = free_port()
        run = place.run(write_config(place.folder, "lost"), RAY_ADDRESS=f"127.0.0.1:{port}")
        assert run.ended(60) == 2, run.log()
        line = run.log().splitlines()[-1]
        assert line.startswith(f"advdmd: error: no Ray cluster answers at 127.0.0.1:{port} (connection refused)")
        assert "Traceback" not in run.log()
        assert place.left_after(5) == []


def test_the_doctor_quotes_a_cluster_that_is_not_there() -> None:
    with workplace() as place:
        port = free_port()
        config = write_config(place.folder, "lost")
        asked = place.start([*DOCTOR, "--config", str(config)], RAY_ADDRESS=f"127.0.0.1:{port}")
        assert asked.ended(120) == 1, asked.log()
        assert f"no Ray cluster answers at 127.0.0.1:{port} (connection refused)" in asked.log()
        assert "Traceback" not in asked.log()
        assert place.left_after(5) == []
