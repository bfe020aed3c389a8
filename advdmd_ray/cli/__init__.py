"""The command line: one file a command.

Exit codes: 0 done, 1 failed or not ready, 2 bad input (one line on stderr), 130 stopped by Ctrl-C,
143 by SIGTERM.
"""

from advdmd_ray.cli.arguments import BAD_INPUT, DONE, FAILED, INTERRUPTED
from advdmd_ray.cli.entry import COMMANDS, main, parse_arguments

__all__ = ["BAD_INPUT", "COMMANDS", "DONE", "FAILED", "INTERRUPTED", "main", "parse_arguments"]
