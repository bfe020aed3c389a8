"""`python -m advdmd_ray.run ...` is `advdmd run ...`: one entry for a laptop and for `ray job submit`."""

import sys

from advdmd_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
if __name__ == "advdmd_ray.run":
    # As a module it would take the place of the function `advdmd_ray.run`.
    raise ImportError("advdmd_ray.run is for `python -m advdmd_ray.run`; the function is `from advdmd_ray import run`")
