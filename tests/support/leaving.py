"""How a process that has met a gang ends."""

import os
import sys
from typing import NoReturn


def leave() -> NoReturn:
    """Ends this process, whose work is done and on the disk, with exit code 0, and without finalizing Python.

    Gloo's threads live until the process ends, also after `destroy_process_group` where somebody still holds a group,
    and drop tensors of Python in their own time. For that they ask for the GIL, and while an interpreter is finalized
    that ends the thread inside of C++, and so the process with SIGABRT.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
