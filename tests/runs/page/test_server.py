"""The server: read-only, only what the page shows, to whoever may ask, and new figures when there are any."""

import gzip
import http.client
import json
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from advdmd_ray.errors import UserError
from advdmd_ray.runs.addresses import own_address
from advdmd_ray.runs.page import server as module
from advdmd_ray.runs.page.server import MOST_CONNECTIONS, Served, Server, is_loopback
from page_runs import line_of, write_lines, write_run


@contextmanager
def serving(*folders: Path, host: str = "127.0.0.1") -> Iterator[Server]:
    with Server(host, 0, Served([(folder, folder.name) for folder in folders])) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def asked(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo", cycles=10).path


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    with serving(run) as server:
        yield server


def test_the_page_its_facts_and_its_pictures_are_served(server: Server, run: Path) -> None:
    status, headers, page = asked(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b'data-live="yes"' in page
    assert b"connect-src 'self'" in page.replace(b"&#39;", b"'")
    _, _, data = asked(server, "/facts.json?run=0")
    facts = json.loads(data)
    assert set(facts) == {"sections", "charts"}
    pictures = set(re.findall(r'"(picture/[0-9a-f]{32})"', json.dumps(facts).replace("\\", "")))
    assert len(pictures) >= 12
    kinds = {asked(server, f"/{picture}")[1]["Content-Type"] for picture in pictures}
    assert kinds == {"image/png"}
    whole = re.findall(r'<a href="(picture/[0-9a-f]{32})"', facts["sections"]["samples"])
    assert asked(server, f"/{whole[0]}")[2] == (run / "comparison.png").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/config.yaml",
        "/metrics.jsonl",
        "/../demo/config.yaml",
        "/picture/../config.yaml",
        "/picture/..%2f..%2fconfig.yaml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/picture/",
        "/picture/comparison.png",
        f"/picture/{'0' * 32}",
        "/picture/" + "a" * 5000,
        "/facts.json/..",
    ],
)
def test_nothing_else_can_be_asked_for(path: str, server: Server) -> None:
    asked(server, "/")
    status, _, data = asked(server, path)
    assert (status, data) == (404, b"404 Not Found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_sent(method: str, server: Server, run: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in run.rglob("*"))
    assert asked(server, "/", method)[0] == 501
    assert sorted(path.stat().st_mtime_ns for path in run.rglob("*")) == before


def test_a_head_has_no_body_and_a_wrong_run_is_the_first(server: Server) -> None:
    status, headers, body = asked(server, "/", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 50_000
    for wrong in ("9", "-1", "x", "%00", "1e3", "9" * 400):
        assert asked(server, f"/?run={wrong}")[0] == 200


def test_facts_come_again_only_when_they_are_new_and_small_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_S", 0.0)
    monkeypatch.setattr(module, "SHARE", 1e9)
    write_lines(tmp_path / "run", [line_of(1)])
    with serving(tmp_path / "run") as server:
        _, headers, data = asked(server, "/facts.json", Accept_Encoding="gzip")
        assert headers["Content-Encoding"] == "gzip"
        assert json.loads(gzip.decompress(data))["charts"]["last"] == 1
        status, _, data = asked(server, "/facts.json", If_None_Match=headers["ETag"])
        assert (status, data) == (304, b"")
        write_lines(tmp_path / "run", [line_of(1), line_of(2)])
        status, _, data = asked(server, "/facts.json", If_None_Match=headers["ETag"])
        assert (status, json.loads(data)["charts"]["last"]) == (200, 2)


def test_folders_are_read_at_most_a_tenth_of_the_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, reads = [100.0], list[float]()

    def read(folder: Path, name: str) -> tuple[Path, str]:
        reads.append(now[0])
        now[0] += 1.0
        return folder, name

    monkeypatch.setattr(module, "read_record", read)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    served = Served([(run, "demo")])
    for _ in range(300):
        served.records()
        now[0] += 0.1
    assert len(reads) == 3
    assert min(after - before for before, after in pairwise(reads)) >= 10


def test_a_foreign_page_that_sends_a_browser_here_gets_nothing(server: Server) -> None:
    assert asked(server, "/", Host="evil.example:80")[0] == 403
    assert asked(server, "/", Host="")[0] == 403
    for name in ("localhost", "127.0.0.1:8420", "[::1]:8420", "LOCALHOST:1"):
        assert asked(server, "/", Host=name)[0] == 200


def test_of_too_many_pictures_those_that_no_page_was_told_of_for_longest_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_PICTURES", 3)
    served, files = Served([]), [tmp_path / f"{number}.png" for number in range(4)]
    for file in files:
        file.write_bytes(file.name.encode())

    def told(*numbers: int) -> list[str]:
        return [served.whole(files[number]).removeprefix("picture/") for number in numbers]

    names = told(0, 1, 2)
    assert told(0, 3) == [names[0], *told(3)], "the first page's is told again, with a new one"
    shown = [served.picture(name) for name in (*names, *told(3))]
    assert [None if picture is None else picture[1] for picture in shown] == [b"0.png", None, b"2.png", b"3.png"]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::1"])  # noqa: S104 - every interface
def test_the_address_that_is_told_can_be_opened(run: Path, host: str) -> None:
    with serving(run, host=host) as server:
        address = urllib.parse.urlsplit(server.page_address)
        with urllib.request.urlopen(f"{server.page_address}facts.json", timeout=60) as answer:  # noqa: S310 - it is http
            assert json.load(answer)["charts"]["last"] == 10
        assert address.hostname == (own_address() if host == "0.0.0.0" else host)  # noqa: S104


def test_on_another_host_only_the_address_with_the_token_answers(run: Path) -> None:
    with serving(run, host="0.0.0.0") as server:  # noqa: S104 - what is tested
        path = urllib.parse.urlsplit(server.page_address).path
        token = path.strip("/")
        assert len(token) >= 32
        assert asked(server, path, Host="node7:8420")[0] == 200
        assert asked(server, f"{path}facts.json")[0] == 200
        for wrong in ("/", "/facts.json", f"/{token}", f"/{token[:-1]}x/", f"/{token.lower()}/facts.json", "/%00/"):
            assert asked(server, wrong)[0] == 403, wrong
        assert asked(server, f"{path}../demo/config.yaml")[0] == 404
        with serving(run, host="0.0.0.0") as other:  # noqa: S104
            assert other.token != server.token


def test_connections_beyond_the_bound_are_closed_and_later_ones_served(run: Path) -> None:
    with serving(run) as server:
        idle = [
            socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=10)
            for _ in range(MOST_CONNECTIONS)
        ]
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            asked(server, "/")
        for one in idle:
            one.close()
        until = time.monotonic() + 60
        while True:
            try:
                assert asked(server, "/picture/none")[0] == 404
                break
            except (http.client.HTTPException, ConnectionError):
                assert time.monotonic() < until, "no room after all had left"
                time.sleep(0.01)


def test_an_address_that_is_none_is_answered_with_400(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(run) as server:
        for line in (b"GET http://[x HTTP/1.1\r\nHost: localhost", b"GET / HTTP/1.1\r\nHost: [bad"):
            with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=30) as client:
                client.sendall(line + b"\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert capsys.readouterr().err == ""


def test_a_port_that_is_taken_is_one_line(server: Server, run: Path) -> None:
    port = int(server.server_address[1])
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} cannot be listened on \(address already in use\)"):
        Server("127.0.0.1", port, Served([(run, "demo")]))


def test_addresses_of_this_machine_are_known() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.0.1", "node7", "", "::")))  # noqa: S104
