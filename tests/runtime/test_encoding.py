"""The encoding of the prompts by one process, with a stand-in for Ray that keeps time."""

from collections.abc import Iterator
from typing import Any

import pytest

from advdmd_ray.errors import DeadlineError, WorkerLostError
from advdmd_ray.runtime import encoding
from advdmd_ray.stations.encoded_texts import TextIndex
from advdmd_ray.stations.prompt_table import TableFacts

FACTS = TableFacts(("a", "b"), 2, TextIndex((), (), (), (), 0), TextIndex((), (), (), (), 0))
WHOLE = [(1, 2), "shard 0", (2, 2), "shard 1", FACTS]


class Pulse:
    """The answer of a process that was asked, if it answers."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers


class Encoder:
    """Hands over what it has, a part each two seconds, and then hangs, is lost, or takes long but answers."""

    def __init__(self, world: "FakeRay", parts: list[Any], end: str) -> None:
        self.world, self.parts, self.end, self.replaced = world, parts, end, False
        self.encode = self.ping = self

    def remote(self) -> Any:
        if not self.world.streams or self.world.streams[-1].encoder is not self:
            self.world.streams.append(Stream(self))
            return self.world.streams[-1]
        assert not self.replaced, "nobody asks the dead"
        return Pulse(answers=bool(self.parts) or self.end == "takes long")


class Stream(Iterator[Any]):
    """What an encoder has handed over."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @property
    def ready(self) -> bool:
        return bool(self.encoder.parts) or self.encoder.end == "is lost"

    def __next__(self) -> Any:
        return self.encoder.parts.pop(0) if self.encoder.parts else WorkerLostError("it died")


class FakeRay:
    """Keeps time, and has the next encoder at hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *encoders: tuple[list[Any], str]) -> None:
        self.now, self.streams = 0.0, list[Stream]()
        self.encoders = [Encoder(self, [*parts], end) for parts, end in encoders]
        monkeypatch.setattr(encoding, "ray", self)
        monkeypatch.setattr(encoding, "answer", self.answer)

    def wait(self, waits: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        ready = [each for each in waits if (each.answers if isinstance(each, Pulse) else each.ready)][:1]
        self.now += 2.0 if ready and isinstance(ready[0], Stream) else 0.0 if ready else timeout
        return ready, [each for each in waits if each not in ready]

    @staticmethod
    def answer(asked: Any, what: str, *_: Any) -> Any:
        assert what == "the encoding of the prompts"
        if isinstance(asked, Exception):
            raise asked
        return asked

    def replace(self, lost: Encoder) -> Encoder:
        lost.replaced = True
        return self.encoders.pop(0)

    def encoded(self, limit_s: float = 300.0) -> tuple[TableFacts, list[Any], list[tuple[int, int]]]:
        told: list[tuple[int, int]] = []
        first = self.encoders.pop(0)
        facts, shards = encoding.encoded(first, self.replace, limit_s, lambda *at: told.append(at), lambda: self.now)
        return facts, shards, told


def test_all_shards_are_handed_over_in_their_order_and_all_texts_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FakeRay(monkeypatch, (WHOLE, "")).encoded() == (FACTS, ["shard 0", "shard 1"], [(1, 2), (2, 2)])


@pytest.mark.parametrize(("end", "line"), [("is lost", "it died"), ("hangs", "has not answered for 60 s")])
@pytest.mark.parametrize("had", [0, 1, 2, 3])
def test_another_process_begins_anew_where_one_is_lost_or_hangs(
    end: str, line: str, had: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ray = FakeRay(monkeypatch, (WHOLE[:had], end), (WHOLE, ""))
    if end == "hangs" and not had:
        ray.encoders[0].parts = [(0, 2), "shard"]  # one that never answered may only be starting
    facts, shards, _ = ray.encoded()
    assert (facts, shards) == (FACTS, ["shard 0", "shard 1"])
    (message,) = caplog.messages
    assert line in message
    assert message.endswith("; another worker begins anew")
    assert ray.now < 120


def test_three_losses_are_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(monkeypatch, *[([(1, 2)], "is lost")] * 9)
    with pytest.raises(WorkerLostError, match="it died"):
        ray.encoded()
    assert len(ray.streams) == 3


def test_one_that_answers_and_hands_nothing_over_has_the_time_of_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(monkeypatch, (WHOLE[:2], "takes long"))
    with pytest.raises(DeadlineError, match=r"waited 300 s for the encoding of the prompts; .*ray\.start_timeout_s"):
        ray.encoded()
    assert ray.now >= 300
