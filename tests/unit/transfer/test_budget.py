from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from tests.faults import FaultyStore
from understudy.errors import Corrupt, Denied, Refused
from understudy.objects.memory import MemoryStore
from understudy.transfer.budget import TransferBudget, Transferred, key_of, read_transferred
from understudy.vault.store import Vault, open_vault

MOMENT = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
MB = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = MOMENT

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vault(clock: Clock) -> Vault:
    return open_vault(MemoryStore(clock=clock), service="recommender")


def test_what_a_run_sends_is_known_to_the_next_one(vault: Vault) -> None:
    for sent in (30, 12):
        budget = TransferBudget(vault, 100 * MB)
        budget.spend(sent * MB)
        budget.flush()
    assert Transferred("2026-11", 42 * MB, 100 * MB) == read_transferred(vault, 100 * MB, MOMENT)
    assert "42 MB of 100 MB in 2026-11 (42 %)" == read_transferred(vault, 100 * MB, MOMENT).sentence


def test_what_would_exceed_the_budget_is_refused_and_not_counted(vault: Vault) -> None:
    budget = TransferBudget(vault, 100 * MB, file="config.yaml")
    budget.spend(90 * MB)
    with pytest.raises(Refused, match=r"90 MB of 100 MB in 2026-11 \(90 %\), and 20 MB more.*Raise .* in config.yaml"):
        budget.spend(20 * MB)
    assert 4 == Refused.exit_code
    budget.spend(10 * MB)
    with pytest.raises(Refused):
        budget.spend(1)
    assert 100 * MB == read_transferred(vault, None, MOMENT).bytes


def test_a_run_that_is_refused_has_written_down_what_it_sent(vault: Vault) -> None:
    budget = TransferBudget(vault, 100 * MB)
    budget.spend(90 * MB)
    assert 0 == read_transferred(vault, None, MOMENT).bytes
    with pytest.raises(Refused):
        budget.spend(20 * MB)
    assert 90 * MB == read_transferred(vault, None, MOMENT).bytes


def test_runs_side_by_side_share_the_budget(vault: Vault) -> None:
    budgets = [TransferBudget(vault, 1000 * MB) for _ in range(4)]

    def send(budget: TransferBudget) -> int:
        sent = 0
        try:
            while True:
                budget.spend(10 * MB)
                sent += 10 * MB
                budget.flush()
        except Refused:
            return sent

    with ThreadPoolExecutor(4) as pool:
        sent = sum(pool.map(send, budgets))
    assert sent == read_transferred(vault, None, MOMENT).bytes
    # Each of the others may have had one request under way that nobody else knew of.
    assert 1000 * MB <= sent <= 1030 * MB


def test_a_new_month_begins_at_nothing(vault: Vault, clock: Clock) -> None:
    budget = TransferBudget(vault, 100 * MB)
    budget.spend(100 * MB)
    budget.flush()
    clock.now = datetime(2026, 12, 1, tzinfo=UTC)
    budget.spend(70 * MB)
    budget.flush()
    assert (100 * MB, 70 * MB) == (
        read_transferred(vault, None, MOMENT).bytes,
        read_transferred(vault, None, clock.now).bytes,
    )


def test_long_runs_write_down_what_they_sent_meanwhile(vault: Vault) -> None:
    seconds = iter(range(0, 1000, 10))
    budget = TransferBudget(vault, 10_000 * MB, clock=lambda: float(next(seconds)))
    for _ in range(20):
        budget.spend(40 * MB)
    assert 800 * MB - 64 * (1 << 20) <= read_transferred(vault, None, MOMENT).bytes <= 800 * MB


def test_reads_are_counted_and_never_refused(vault: Vault) -> None:
    budget = TransferBudget(vault, 10 * MB)
    budget.note(30 * MB)
    budget.flush()
    assert 30 * MB == read_transferred(vault, None, MOMENT).bytes


def test_nothing_is_written_where_nothing_was_sent() -> None:
    store = FaultyStore(MemoryStore())
    budget = TransferBudget(Vault(store), 100 * MB)
    budget.flush()
    budget.note(100)
    budget.flush()
    assert {} == dict(store.calls)


@pytest.mark.parametrize("text", [b"[]", b'{"bytes": -1}', b'{"bytes": "5"}', b'{"bytes": true}', b'{"bytes": 1e99}'])
def test_a_count_that_is_none_is_corrupt(vault: Vault, text: bytes) -> None:
    vault.store.put(key_of("2026-11"), text)
    with pytest.raises(Corrupt, match=r"2026-11\.json.*tells no count of bytes"):
        TransferBudget(vault, 100 * MB).spend(1)


def test_a_count_that_may_not_be_kept_stops_the_run() -> None:
    store = FaultyStore(MemoryStore()).fail("replace", nth=None, error=lambda: Denied("no"))
    budget = TransferBudget(Vault(store), 100 * MB)
    budget.spend(MB)
    with pytest.raises(Denied):
        budget.flush()
