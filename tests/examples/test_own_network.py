"""The example of the library's face does what it says."""

import importlib.util
from pathlib import Path

import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_network.py"


def test_somebodys_own_network_becomes_a_student_of_two_steps() -> None:
    spec = importlib.util.spec_from_file_location("own_network", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with torch.random.fork_rng():
        teacher, student = example.main()
    assert teacher > 0.2  # two steps are too few for it
    assert student < teacher / 5
