"""`python -m benchmarks.estimators CHECKPOINT ...`."""

import sys

from benchmarks.estimators.command import main

if __name__ == "__main__":
    sys.exit(main())
