"""Seeds that belong to the work: derived from the run's seed and a path of names, without torch."""

import hashlib


def derive_seed(run_seed: int, *path: int | str) -> int:
    """The seed of the piece of work at `path`, such as `derive_seed(run_seed, "group", ordinal)`.

    BLAKE2b over the parts, each with its type and length, so that no two paths are spelled alike.

    Returns:
        An integer in [0, 2**63); the same in every process and on every platform.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (run_seed, *path):
        spelled = (f"s{part}" if isinstance(part, str) else f"i{int(part)}").encode()
        digest.update(len(spelled).to_bytes(8, "big") + spelled)
    return int.from_bytes(digest.digest(), "big") >> 1
