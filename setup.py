"""Puts configs/ into the package that is built, as advdmd_ray/configs; pyproject.toml says everything else."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies what an editable installation finds in the checkout."""

    def run(self) -> None:
        """Builds the package."""
        super().run()
        if not self.editable_mode:
            self.copy_tree("configs", str(Path(self.build_lib) / "advdmd_ray" / "configs"))


setup(cmdclass={"build_py": BuildWithConfigs})
