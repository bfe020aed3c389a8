"""`python -m benchmarks.endurance.storm ...`."""

import sys

from benchmarks.endurance.storm.command import main

if __name__ == "__main__":
    sys.exit(main())
