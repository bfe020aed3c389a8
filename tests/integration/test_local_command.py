"""`advdmd run --local`: a whole run in one process, which knows nothing of Ray."""

import json
import sys
from pathlib import Path

import pytest

from advdmd_ray import cli
from ray_runs import Started, Workplace, workplace, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# The command, in an interpreter that fails if it imported Ray.
WITHOUT_RAY = """
import sys
from advdmd_ray.cli import main
code = main(["run", "--local", *sys.argv[1:]])
sys.exit("imported ray" if "ray" in sys.modules else code)
"""


def started(place: Workplace, config: Path, *arguments: str) -> Started:
    # More cores than any machine has: nothing is reserved here.
    command = [sys.executable, "-c", WITHOUT_RAY, "--config", str(config), "rollout.num_cpus=4096"]
    return place.start([*command, "evaluation.grid_cycles=1", *arguments])


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))


def test_a_run_in_one_process_is_stopped_by_sigterm_resumed_and_ends_with_its_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with workplace() as place:
        config, folder = write_config(place.folder, "here"), place.folder / "here"

        run = started(place, config, "run.cycles=500")
        run.until("a grid of the first cycle", lambda: [*(folder / "grids").glob("*")], 240)
        run.process.terminate()
        assert run.ended(60) == 143, run.log()
        (newest,) = checkpoints(folder)  # none was due yet
        assert run.log().splitlines()[-1].startswith(f"advdmd: stopped by SIGTERM, at cycle {newest} of 500; {folder}")
        assert "Traceback" not in run.log()
        assert place.left_after(5) == []

        assert cli.main(["run", "--local", "--config", str(config), "run.cycles=500"]) == cli.BAD_INPUT
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"advdmd: error: {folder} has a run already")

        run = started(place, config, "--resume", "auto", f"run.cycles={newest + 1}")
        assert run.ended(300) == 0, run.log()
        lines = run.log().splitlines()
        assert lines[0] == f"resuming {folder} from step-{newest:08d}"
        assert "metrics at http://127.0.0.1:" in run.log()
        assert lines[-1] == f"look at {folder / 'report.html'}"
        assert place.left_after(5) == []
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["cycles"] == newest + 1
        assert summary["weights"]["mismatched"] == {"student": 0, "discriminator": 0}
        assert (folder / "student" / "model_index.json").is_file()
        names = {"config.yaml", "metrics.jsonl", "comparison.png", "curves.png", "report.html", "grids", "checkpoints"}
        assert names <= {path.name for path in folder.iterdir()}
