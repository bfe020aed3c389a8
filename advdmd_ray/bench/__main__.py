"""`python -m advdmd_ray.bench ...`."""

import sys

from advdmd_ray.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
