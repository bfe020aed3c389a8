"""Where the /metrics of a run is, whichever of its hubs serves it."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from advdmd_ray.errors import UserError

PORT_S = 10.0
"""Seconds that a port may be occupied before anything is done: the process before may hold it for a moment."""
_log = logging.getLogger(__name__)


class Server(Protocol):
    """A `HubProcess`."""

    def serve(self, host: str, port: int) -> int: ...  # noqa: D102


class Serving:
    """Has one hub after the other serve at the same place, as soon as that is free.

    Of a run that asked for any port, a later hub takes another one where the first is occupied for long.

    Attributes:
        on: Whether the present hub serves.
    """

    def __init__(self) -> None:
        self._place: tuple[str, int] | None = None
        self._any_port = self._told = self.on = False
        self._port = Future[int]()
        self._found: Callable[[int], None] = lambda _: None

    def ask(self, host: str, port: int, found: Callable[[int], None]) -> Future[int]:
        """Asks the present hub, and those that come, to serve.

        Args:
            host: Address to listen on.
            port: Port; 0 for any.
            found: Is told the port of each hub, in the thread that takes turns.

        Returns:
            The port of the first; or a UserError if it cannot listen there.
        """
        self._any_port, self._found, self._port = port == 0, found, Future()
        self._place = host, port
        return self._port

    def turn(self, server: Server, down_s: float) -> None:
        """Has the present hub serve if it does not yet.

        Args:
            server: The hub.
            down_s: Seconds since the one before was lost.
        """
        if self._place is None or self.on:
            return
        try:
            port = server.serve(*self._place)
        except UserError as error:
            self._refused(error, self._place[0], down_s)
            return
        self.on, self._told, self._place = True, False, (self._place[0], port)
        self._found(port)
        if not self._port.done():
            self._port.set_result(port)

    def _refused(self, error: UserError, host: str, down_s: float) -> None:
        if not self._port.done():
            self._place = None
            self._port.set_exception(error)
        elif down_s > PORT_S and self._any_port:
            self._place = host, 0
        elif down_s > PORT_S and not self._told:
            self._told = True
            _log.error("/metrics is off until its port is free: %s", error)
