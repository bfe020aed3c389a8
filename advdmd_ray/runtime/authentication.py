"""The token that Ray's clusters ask for."""

import os


def expect_token(address: str | None) -> None:
    """Has Ray show its token to the cluster at an address; called before Ray is imported, which is when it looks.

    Clusters that Ray 2.60 starts ask for one. `RAY_AUTH_MODE` says otherwise where it is set.
    """
    if address is not None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
