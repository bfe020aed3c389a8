"""`python -m benchmarks.host ...`."""

import sys

from benchmarks.host.command import main

if __name__ == "__main__":
    sys.exit(main())
