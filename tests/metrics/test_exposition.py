"""/metrics: every series says whose it is, what has not happened is 0, and the end of a run waits to be read."""

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from advdmd_ray.metrics.catalogue import CATALOGUE, Kind, closed_label_sets
from advdmd_ray.metrics.exposition import INFO, Identity, Scrapes
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.series import Sample
from ports import free_port

IDENTITY = Identity("first", "0.1.0", "unknown", "0123456789ab", 'a "quoted" \\ folder')
LONG_S = 60.0
PROMETHEUS = {"X-Prometheus-Scrape-Timeout-Seconds": "10"}
Scraped = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(port: int, query: str = "", headers: Mapping[str, str] = PROMETHEUS) -> Scraped:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics{query}", headers=dict(headers))
    with urllib.request.urlopen(asked, timeout=LONG_S) as answer:  # noqa: S310 - it is http
        families = [*text_string_to_metric_families(answer.read().decode())]
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_series_carries_the_name_of_its_run_and_one_says_what_the_run_is() -> None:
    with MetricsHub(identity=IDENTITY) as hub:
        hub.record([Sample.of("advdmd_run_cycle", 3), Sample.of("advdmd_reward_mean", 0.5, level=1)])
        port = hub.serve()
        scraped, asked = scrape(port), scrape(port, "?name[]=advdmd_reward_mean")
    assert {dict(labels).get("run") for _, labels in scraped} == {"first"}
    assert scraped[INFO, tuple(sorted(asdict(IDENTITY).items()))] == 1
    assert scraped["advdmd_run_cycle", (("run", "first"),)] == 3
    assert asked == {("advdmd_reward_mean", (("level", "1"), ("run", "first"))): 0.5}
    assert hub.registry.get_sample_value("advdmd_run_cycle") == 3, "whoever records need not know the run"


def test_two_runs_on_one_port_one_after_the_other_have_no_series_in_common() -> None:
    port, seen = free_port(), list[Scraped]()
    for name in ("first", "second"):
        with MetricsHub(identity=replace(IDENTITY, run=name)) as hub:
            hub.record([Sample.of("advdmd_run_cycle", 1)])
            hub.serve("127.0.0.1", port)
            seen.append(scrape(port))
    one, two = seen
    assert len(one) == len(two)
    assert one.keys().isdisjoint(two)


def test_before_anything_has_happened_every_counter_is_0_and_no_gauge_has_a_value() -> None:
    with MetricsHub(identity=IDENTITY) as hub:
        scraped = scrape(hub.serve())
    own = {
        (name, tuple(pair for pair in labels if pair[0] != "run")): value for (name, labels), value in scraped.items()
    }
    for name, series in CATALOGUE.items():
        if series.kind is Kind.COUNTER:
            sets = [*closed_label_sets(series)]
            assert sets, f"{name} has a label with any value: its first event would go unseen"
            for row in sets:
                assert own[name, tuple(sorted(zip(series.labels, row, strict=True)))] == 0
        elif series.kind is Kind.GAUGE:
            assert name not in {named for named, _ in own}, f"{name} would say 0 and know nothing"


def test_how_a_run_ended_is_served_once_it_has() -> None:
    with MetricsHub(identity=IDENTITY) as hub:
        port = hub.serve()
        assert "advdmd_run_finished" not in {name for name, _ in scrape(port)}
        hub.finish("diverged", 0.0)
        ended = {labels: value for (name, labels), value in scrape(port).items() if name == "advdmd_run_finished"}
    assert ended == {(("outcome", "diverged"), ("run", "first")): 1}


def test_the_end_waits_for_the_next_scrape_and_no_longer(beside: Executor) -> None:
    ended = "advdmd_run_finished", (("outcome", "completed"), ("run", "first"))
    with MetricsHub(identity=IDENTITY) as hub:
        port = hub.serve()
        scrape(port)
        over = beside.submit(hub.finish, "completed", LONG_S)
        while ended not in scrape(port):
            pass
        over.result(LONG_S / 2)


@pytest.mark.parametrize("scraped", [False, True])
def test_the_end_waits_at_most_so_long_and_not_at_all_if_only_a_health_check_has_looked(scraped: bool) -> None:
    with MetricsHub(identity=IDENTITY) as hub:
        port = hub.serve()
        scrape(port, headers=PROMETHEUS if scraped else {})
        began = time.monotonic()
        hub.finish("failed", 0.2 if scraped else LONG_S)
        spent = time.monotonic() - began
    assert spent < LONG_S / 2
    assert (spent >= 0.2) == scraped


class Waited(threading.Condition):
    """Says that somebody waits, who lets go of it only then."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        self.begun.set()
        return super().wait_for(predicate, timeout)


@pytest.mark.parametrize("headers", [PROMETHEUS, {}])
def test_only_a_scrape_that_prometheus_begins_after_the_end_counts_as_one_that_saw_it(
    beside: Executor, headers: Mapping[str, str]
) -> None:
    scrapes = Scrapes(lambda *_: Answer())
    scrapes._changed = waited = Waited()
    request(scrapes).close()
    before = request(scrapes)
    over = beside.submit(scrapes.await_next, LONG_S if headers else 0.1)
    assert waited.begun.wait(LONG_S)
    before.close()
    after = request(scrapes, headers)
    assert [*after] == [b"text"]
    assert not over.done(), "one had begun before, the other is not sent yet"
    after.close()
    assert over.result(LONG_S / 2) == bool(headers)


class Answer(list[bytes]):
    """What the server sends, and then closes."""

    def __init__(self) -> None:
        super().__init__([b"text"])

    def close(self) -> None:
        self.clear()


def request(scrapes: Scrapes, headers: Mapping[str, str] = PROMETHEUS) -> Any:
    """An answer that the server has not sent yet."""
    names = {f"HTTP_{name.upper().replace('-', '_')}": text for name, text in headers.items()}
    return scrapes(names, lambda *_: lambda _: None)


@pytest.fixture
def beside() -> Iterator[Executor]:
    """One more thread."""
    with ThreadPoolExecutor(1) as executor:
        yield executor
