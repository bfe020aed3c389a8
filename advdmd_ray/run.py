"""`python -m advdmd_ray.run ...` is `advdmd run ...`: one entry for a laptop and for `ray job submit`."""

import sys

from advdmd_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
