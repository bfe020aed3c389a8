"""The page of runs, live: read-only, and only what the page shows of their folders.

No path is ever made of what a request asks for: pictures are found by names that the page was given. Work is bounded:
folders are read again at most every few seconds, and less often the longer that takes; connections are counted.
"""

import gzip
import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.pictures.page_pictures import Shown, encode
from advdmd_ray.runs.addresses import EVERYWHERE, in_url, own_address
from advdmd_ray.runs.page.page import charts, page_text, sections
from advdmd_ray.runs.page.record import Record, read_record

LEAST_S = 2.0
"""Seconds for which what was read is new enough."""
SHARE = 0.1
"""Most of the time that reading may take."""
MOST_CONNECTIONS, MOST_PICTURES = 32, 2**14
REQUEST_S = 20.0
"""A connection that is silent for so long is closed."""
_HOSTS = {"localhost", "127.0.0.1", "::1"}


class Served:
    """What a page's server knows: the runs, read again when that is due, and the pictures that a page may ask for.

    Args:
        runs: Folder and name of each run.
    """

    def __init__(self, runs: Sequence[tuple[Path, str]]) -> None:
        self.runs = tuple(runs)
        self._lock = threading.Lock()
        self._records: list[Record] = []
        self._due = 0.0
        self._facts: dict[int, tuple[list[Record], bytes]] = {}
        self._told = threading.Lock()
        self._pictures: OrderedDict[str, Shown] = OrderedDict()  # the last told last

    def records(self) -> list[Record]:
        """The runs as they are, or were a moment ago."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                self._records = [read_record(folder, name) for folder, name in self.runs]
                took = time.monotonic() - began
                self._due = time.monotonic() + max(LEAST_S, took / SHARE)
            return self._records

    def page(self, chosen: int) -> bytes:
        """The whole page about one of the runs."""
        return page_text(self.records(), self, chosen=chosen, live=True).encode()

    def facts(self, chosen: int) -> bytes:
        """What of it can change, as JSON; made once for all who ask before the runs are read again."""
        records = self.records()
        made = self._facts.get(chosen)
        if made is not None and made[0] is records:
            return made[1]
        facts: dict[str, Any] = {
            "sections": sections(records, self, chosen, live=True),
            "charts": charts(records, chosen),
        }
        self._facts[chosen] = records, (data := json.dumps(facts, allow_nan=False).encode())
        return data

    def picture(self, name: str) -> tuple[str, bytes] | None:
        """Media type and bytes of a picture that a page was told of; None: of none, or one that is gone."""
        with self._told:
            shown = self._pictures.get(name)
        if shown is None:
            return None
        try:
            return encode(shown)
        except OSError:
            return None

    def address(self, shown: Shown) -> str:
        """See `Pictures`: another file by the same name has another address."""
        told = f"{shown} {shown.path.stat().st_mtime_ns}"
        name = hashlib.sha256(told.encode()).hexdigest()[:32]
        with self._told:
            self._pictures[name] = shown
            self._pictures.move_to_end(name)
            if len(self._pictures) > MOST_PICTURES:
                self._pictures.popitem(last=False)
        return f"picture/{name}"

    def whole(self, path: Path) -> str:
        """See `Pictures`."""
        return self.address(Shown(path, path.stat().st_size, 1))


class Server(ThreadingHTTPServer):
    """Serves pages until it is stopped.

    Attributes:
        served: The runs.
        token: What every address begins with, where others than this machine can ask; else empty.

    Args:
        host: Address to listen on.
        port: Port; 0: a free one.
        served: The runs.

    Raises:
        UserError: if it cannot listen there.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, served: Served) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.served, self._host = served, host
        self.token = "" if is_loopback(host) else secrets.token_urlsafe(24)
        self.room = threading.Semaphore(MOST_CONNECTIONS)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"{host}:{port} cannot be listened on ({reason}); give another --port or --host") from None

    @property
    def page_address(self) -> str:
        """Where others find the page, with the token if there is one."""
        host = own_address() if self._host in EVERYWHERE else self._host
        return f"http://{in_url(host)}:{self.server_address[1]}/" + (f"{self.token}/" if self.token else "")

    def process_request(self, request: Any, client_address: Any) -> None:
        """Takes a connection, or closes it if there are too many."""
        if not self.room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers it, and makes room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error; anything else is told with its traceback."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "advdmd", ""
    protocol_version = "HTTP/1.1"
    timeout = REQUEST_S

    @property
    def _pages(self) -> Server:
        if not isinstance(self.server, Server):
            raise TypeError(f"{type(self.server).__name__} has no pages")
        return self.server

    def do_GET(self) -> None:
        """Answers with the page, its facts or a picture."""
        try:
            asked, host = urlsplit(self.path), urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        served = self._pages.served
        path = self._allowed(asked.path, host)
        if path is None:
            return
        chosen = self._chosen(asked.query)
        if path == "":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", served.page(chosen))
        elif path == "facts.json":
            self._answer(HTTPStatus.OK, "application/json", served.facts(chosen), tagged=True)
        elif path.startswith("picture/"):
            picture = served.picture(path.removeprefix("picture/"))
            if picture is None:
                self._refuse(HTTPStatus.NOT_FOUND)
            else:
                self._answer(HTTPStatus.OK, *picture, kept=True)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def _allowed(self, path: str, host: str | None) -> str | None:
        """The path behind the token; None, and a refusal, for whoever has not got it.

        Without a token the page is this machine's alone: a name of another host means that a foreign page has sent the
        browser here.
        """
        token = self._pages.token
        if token:
            first, slash, rest = path.removeprefix("/").partition("/")
            if not (slash and hmac.compare_digest(first.encode(), token.encode())):
                self._refuse(HTTPStatus.FORBIDDEN)
                return None
            return rest
        if host not in _HOSTS and not (host and is_loopback(host)):
            self._refuse(HTTPStatus.FORBIDDEN)
            return None
        return path.removeprefix("/")

    def _chosen(self, query: str) -> int:
        text = parse_qs(query).get("run", ["0"])[0]
        count = len(self._pages.served.runs)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 3 and int(text) < count else 0  # noqa: PLR2004

    def _refuse(self, status: HTTPStatus) -> None:
        self._answer(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}\n".encode())

    def _answer(self, status: HTTPStatus, kind: str, data: bytes, *, tagged: bool = False, kept: bool = False) -> None:
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"' if tagged else ""
        if tagged and self.headers.get("If-None-Match") == tag:
            status, data = HTTPStatus.NOT_MODIFIED, b""
        zipped = not kind.startswith("image/") and "gzip" in self.headers.get("Accept-Encoding", "")
        body = gzip.compress(data, 5) if zipped and data else data
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "private, max-age=86400, immutable" if kept else "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "X-Frame-Options": "DENY",
            **({"ETag": tag} if tag else {}),
            **({"Content-Encoding": "gzip"} if zipped and data else {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's names
        """Says nothing: an address holds the token."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
