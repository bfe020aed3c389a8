"""How a process that has met a gang ends."""

import os
import sys
import traceback
from collections.abc import Callable, Iterable
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


def all_done(works: Iterable[Callable[[], None]]) -> bool:
    """Does each work in a copy of this process, side by side, and says whether all came to their ends.

    What this process has imported, they have.
    """
    copies = []
    for work in works:
        if not (copy := os.fork()):
            try:
                work()
                leave()
            finally:  # it has not left, so there is an error
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        copies.append(copy)
    codes = [os.waitpid(copy, 0)[1] for copy in copies]
    return not any(codes)
