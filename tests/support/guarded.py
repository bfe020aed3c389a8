"""The command line in an interpreter of its own, which fails if torch or Ray was imported."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Runs a command in an interpreter of its own and fails if it imported what could start a Ray process.
GUARDED = """
import sys
from advdmd_ray.cli import main
code = main(sys.argv[1:])
heavy = {"ray", "torch", "deepspeed"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


def advdmd(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", GUARDED, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
