"""Addresses as others can open them."""

import socket

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what is compared with
"""Hosts that listen on every interface, which are no address to ask at."""


def in_url(host: str) -> str:
    """A host as it stands in a URL, and before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def own_address() -> str:
    """The address of this machine on the interface that its packets leave by; nothing is sent.

    Without a network it is this machine's own loopback, from which alone it can be reached then.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address (RFC 5737)
        except OSError:
            return "127.0.0.1"
        return probe.getsockname()[0]
