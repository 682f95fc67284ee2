"""The journal: appended, copied, joined again, and never a reason to lose what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from understudy.errors import HeldByAnother, Refused, StoppedPartWay, Unreachable
from understudy.failover.journal import Journal, read_journal
from understudy.objects.memory import MemoryStore
from understudy.secrets import Secret
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from pathlib import Path


class VendorError(Exception):
    """An SDK's own error, which no adapter has translated."""


class Cut:
    """A store that can be cut off."""

    def __init__(self) -> None:
        self.cut = False
        self._store = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        if self.cut and name != "url":
            raise Unreachable("cut off")
        return getattr(self._store, name)


def journal(vault: Any, second: Any, folder: Path | None = None, who: str = "ana@a", register: str = "r1") -> Journal:
    return Journal(
        Vault(vault), Vault(second), epoch=7, who=who, plan="aaaaaa", register=register, directory=folder, service="s"
    )


def kinds(found: Journal) -> list[tuple[int, str, str]]:
    return [(entry.n, entry.kind, entry.action) for entry in found.entries]


WHOLE = [(1, "intent", "claim"), (2, "intent", "scale"), (3, "effect", "scale"), (4, "read_back", "scale")]


def write_whole(found: Journal) -> None:
    found.begin("claim", {})
    for kind in ("intent", "effect", "read_back"):
        found.write(kind, "scale", {"size": 4}, essential=True)


def test_what_one_process_wrote_another_reads() -> None:
    vault, second = Cut(), Cut()
    write_whole(journal(vault, second).open())
    found = journal(vault, second).open()

    assert WHOLE == kinds(found)
    last = found.of("scale", "read_back")
    assert last is not None
    assert {"size": 4} == last.data
    assert found.of("scale", "refused") is None


def test_a_secret_reaches_no_copy_of_the_journal_however_deep_it_stands(tmp_path: Path) -> None:
    vault, second = Cut(), Cut()
    Secret("planted-journal-4711")
    found = journal(vault, second, tmp_path).open()
    found.begin("claim", {"plan": {"url": ["postgres://me:planted-journal-4711@db", 4]}})
    vault.cut = True  # what is added later comes from what was kept here
    found.write("effect", "scale", {"answer": VendorError("no: planted-journal-4711").args})
    vault.cut = False
    assert journal(vault, second, tmp_path).open().settle()
    expected = [{"plan": {"url": ["postgres://me:***@db", 4]}}, {"answer": ["no: ***"]}]
    for copy in (vault, second):
        assert expected == [entry.data for entry in read_journal(Vault(copy), 7)]
    assert "planted" not in "".join(file.read_text() for file in tmp_path.iterdir())
    assert "planted" not in repr(found.entries)


def test_what_was_done_under_another_register_is_not_believed(tmp_path: Path) -> None:
    vault, second = Cut(), Cut()
    write_whole(journal(vault, second, tmp_path, register="r1").open())
    found = journal(vault, second, tmp_path, register="r2").open()

    assert [] == kinds(found)
    assert found.of("scale", "read_back") is None
    found.begin("claim", {})
    found.write("intent", "scale", {}, essential=True)
    assert [(5, "intent", "claim"), (6, "intent", "scale")] == kinds(journal(vault, second, register="r2").open())
    assert WHOLE == kinds(journal(vault, second, register="r1").open())


def test_an_unreachable_vault_refuses_the_claim() -> None:
    vault, second = Cut(), Cut()
    found = journal(vault, second).open()
    vault.cut = True

    with pytest.raises(Refused, match="nothing was changed"):
        found.begin("claim", {})
    assert [] == read_journal(Vault(second), 7)


def test_after_the_claim_the_copy_beside_the_register_goes_on_and_the_vault_is_filled_later() -> None:
    vault, second = Cut(), Cut()
    found = journal(vault, second).open()
    found.begin("claim", {})
    vault.cut = True
    for kind in ("intent", "effect", "read_back"):
        found.write(kind, "scale", {}, essential=True)
    assert not found.settle()

    assert WHOLE == kinds(journal(vault, second).open())
    vault.cut = False
    resumed = journal(vault, second).open()
    resumed.write("finished")
    assert resumed.settle()
    assert [*WHOLE, (5, "finished", "")] == [(e.n, e.kind, e.action) for e in read_journal(Vault(vault), 7)]


def test_the_local_disk_alone_is_enough_to_go_on(tmp_path: Path) -> None:
    vault, second = Cut(), Cut()
    found = journal(vault, second, tmp_path).open()
    found.begin("claim", {})
    vault.cut = second.cut = True
    for kind in ("intent", "effect", "read_back"):
        found.write(kind, "scale", {}, essential=True)
    vault.cut = second.cut = False
    with (tmp_path / "journal-s-7.jsonl").open("a") as file:
        file.write('{"cut by a ki')

    assert WHOLE == kinds(journal(vault, second, tmp_path).open())


def test_with_no_copy_left_it_stops_before_a_point_of_no_return_and_only_there() -> None:
    vault, second = Cut(), Cut()
    found = journal(vault, second).open()
    found.begin("claim", {})
    vault.cut = second.cut = True
    found.write("intent", "scale", {})

    with pytest.raises(StoppedPartWay, match="cannot be undone"):
        found.write("intent", "writes", {}, essential=True)


def test_with_no_copy_to_read_nothing_is_resumed() -> None:
    vault, second = Cut(), Cut()
    vault.cut = second.cut = True

    with pytest.raises(StoppedPartWay, match="neither copy"):
        journal(vault, second).open()


def test_another_commanders_entry_at_the_next_number_is_kept_and_the_hold_is_asked() -> None:
    vault, second = Cut(), Cut()
    found = journal(vault, second).open()
    found.begin("claim", {})
    journal(vault, second, who="bob@b").open().begin("claim", {})
    asked: list[bool] = []
    found.write("intent", "scale", {}, confirm=lambda: asked.append(True))

    assert [True] == asked
    assert [(1, "ana@a"), (2, "bob@b"), (3, "ana@a")] == [(e.n, e.who) for e in read_journal(Vault(vault), 7)]


def test_whoever_lost_the_hold_writes_no_further() -> None:
    vault, second = Cut(), Cut()
    found = journal(vault, second).open()
    found.begin("claim", {})
    journal(vault, second, who="bob@b").open().begin("claim", {})

    def lost() -> None:
        raise HeldByAnother("bob@b holds epoch 7")

    with pytest.raises(HeldByAnother):
        found.write("intent", "scale", {}, confirm=lost)
    assert 2 == len(read_journal(Vault(vault), 7))
