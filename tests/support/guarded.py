"""The command line in a process that has imported nothing else, which fails if torch or Ray was imported."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Runs each command in a copy of an interpreter that knows the command line alone, as most of a command's time is its
# start; the copy fails if it imported what could start a Ray process.
GUARDED = """
import json, os, sys
from advdmd_ray.cli import main
for line in sys.stdin:
    sys.argv[1:], environment, outputs = json.loads(line)
    if not (copy := os.fork()):
        for number, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        os.environ.clear()
        os.environ.update(environment)
        code = main(sys.argv[1:])
        heavy = {"ray", "torch", "deepspeed"} & set(sys.modules)
        sys.exit(f"imported {heavy}" if heavy else code)
    print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]), flush=True)
"""


@functools.cache
def _interpreter() -> subprocess.Popen[str]:
    """Of this process, until its end."""
    command = [sys.executable, "-c", GUARDED]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    atexit.register(process.communicate)
    return process


def advdmd(*arguments: str) -> subprocess.CompletedProcess[str]:
    to, back = _interpreter().stdin, _interpreter().stdout
    assert to is not None
    assert back is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        to.write(json.dumps([arguments, dict(os.environ), [str(out), str(err)]]) + "\n")
        to.flush()
        return subprocess.CompletedProcess(arguments, int(back.readline()), out.read_text(), err.read_text())
