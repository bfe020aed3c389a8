"""`PYTHONPATH=tests/support python -m schedules ...`."""

import sys

from schedules.command import main

if __name__ == "__main__":
    sys.exit(main())
