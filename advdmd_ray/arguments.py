"""Command lines whose errors are one line."""

import argparse
from typing import NoReturn

from advdmd_ray.errors import UserError


class Parser(argparse.ArgumentParser):
    """Reports what is wrong with the arguments as one line instead of a usage block.

    Raises:
        UserError: where `argparse` would end the process.
    """

    def error(self, message: str) -> NoReturn:  # noqa: D102 - see the class
        raise UserError(f"{message}; see {self.prog} --help")
