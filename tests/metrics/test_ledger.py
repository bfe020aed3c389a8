"""Whatever ends a hub, wherever it was: each sample is written once, in its order, and totals go on."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.metrics import ledger as module
from advdmd_ray.metrics.history import Standing
from advdmd_ray.metrics.ledger import Ledger, Record
from advdmd_ray.metrics.series import Sample

COUNTER, GAUGE, HISTOGRAM = "advdmd_rollout_groups_total", "advdmd_run_cycle", "advdmd_rollout_seconds"


@dataclass
class File:
    """What hubs have written, one after the other."""

    lines: list[Record] = field(default_factory=list)

    def write(self, record: Record) -> None:
        assert record.number > self.standing().record, "numbers rise"
        self.lines.append(record)

    def standing(self) -> Standing:
        return Standing(self.lines[-1].number if self.lines else 0)

    def values(self, name: str) -> list[float]:
        return [sample.value for record in self.lines for sample in record.samples if sample.name == name]


# What happens next: one more record; a hub is sent all of them; it writes one; the driver hears of it; the hub dies.
STEPS = st.lists(st.sampled_from(["add", "send", "write", "hear", "die"]), max_size=60)


@given(STEPS)
def test_each_sample_is_written_once_and_in_order_wherever_a_hub_dies(steps: list[str]) -> None:
    file, ledger = File(), Ledger()
    ledger.handed_over(file.standing())
    sent: list[Record] = []
    wrote = added = 0

    def send_all() -> None:
        while (record := ledger.next()) is not None:
            sent.append(record)

    for step in [*steps, "die", "send"]:
        if step == "add":
            added += 1
            ledger.add([Sample(HISTOGRAM, added), Sample(COUNTER, added), Sample(GAUGE, added)], added)
        elif step == "send":
            send_all()
        elif step == "write" and wrote < len(sent):
            file.write(sent[wrote])
            wrote += 1
        elif step == "hear" and wrote:
            ledger.written(sent[wrote - 1].number)
        elif step == "die":
            standing = ledger.handed_over(file.standing())
            assert standing.values.get(COUNTER, 0) == sum(file.values(COUNTER)), "totals are of what is written"
            assert standing.values.get(GAUGE) == (file.values(GAUGE)[-1] if file.lines else None)
            assert (standing.record, standing.cycle) == (
                (file.lines[-1].number, file.lines[-1].cycle) if file.lines else (0, 0)
            )
            sent, wrote = [], 0
    for record in sent:
        file.write(record)
        ledger.written(record.number)
    assert file.values(HISTOGRAM) == list(range(1, added + 1))
    assert ledger.unwritten == 0


def test_what_the_disk_refused_counts_in_the_totals_of_the_next_hub() -> None:
    ledger = Ledger()
    ledger.handed_over(Standing(7, 3, {COUNTER: 10.0}))
    ledger.add([Sample(COUNTER, 2)], 4)
    record = ledger.next()
    assert record is not None
    assert record.number == 8
    ledger.written(8)  # confirmed, but not in the file
    ledger.add([Sample(COUNTER, 1)], None)
    assert ledger.handed_over(Standing(7, 3)) == Standing(8, 4, {COUNTER: 12.0})
    record = ledger.next()
    assert record is not None
    assert record.number == 9


def test_the_first_hub_says_where_a_resumed_run_stands_and_a_later_one_does_not() -> None:
    ledger = Ledger()
    assert ledger.handed_over(Standing(7, 3, {COUNTER: 10.0})) == Standing(7, 3, {COUNTER: 10.0})
    assert ledger.handed_over(Standing(7, 3, {COUNTER: 4.0})).values == {COUNTER: 10.0}


def test_a_ledger_that_nobody_takes_from_holds_a_bounded_number_of_records_and_loses_no_total(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    monkeypatch.setattr(module, "MOST_OBSERVATIONS", 30)
    monkeypatch.setattr(module, "MOST_UNDER_WAY", 4)
    ledger = Ledger()
    ledger.handed_over(Standing())
    most = 0
    for number in range(1, 201):
        ledger.add([Sample(COUNTER, 1), Sample(GAUGE, number), Sample(HISTOGRAM, number)], number)
        most = max(most, ledger.unwritten)
        if number == 5:
            assert [ledger.next() is not None for _ in range(5)] == [True, True, True, True, False]
    assert most <= 4 + 10
    file = File()
    ledger.handed_over(file.standing())  # what was under way is sent first, one by one
    while (record := ledger.next()) is not None:
        file.write(record)
        ledger.written(record.number)
    assert sum(file.values(COUNTER)) == 200
    assert file.values(GAUGE)[-1] == 200
    assert file.lines[-1].cycle == 200
    seen = file.values(HISTOGRAM)
    assert seen[:4] == [1, 2, 3, 4]
    assert seen[4:] == list(range(201 - len(seen[4:]), 201)), "the newest observations"
    assert 30 <= len(seen[4:]) <= 30 + 10
    assert "observations of histograms are left out" in caplog.text
