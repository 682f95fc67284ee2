from __future__ import annotations

import pytest

from understudy.errors import Corrupt
from understudy.objects.memory import MemoryStore
from understudy.vault.store import Vault, open_vault

KEY = "pointers/vectors/products.json"


@pytest.fixture
def vault() -> Vault:
    return open_vault(MemoryStore("vault"))


def test_a_pointer_is_moved_from_what_another_writer_left_meanwhile(vault: Vault) -> None:
    seen: list[object] = []

    def build(found: int | None) -> int:
        seen.append(found)
        if found is None:
            vault.move_pointer(KEY, lambda _: 7)
        return (found or 0) + 1

    assert 8 == vault.move_pointer(KEY, build)
    assert [None, 7] == seen
    assert 8 == vault.pointer(KEY)


def test_a_pointer_that_stays_as_it_is_is_not_written(vault: Vault) -> None:
    vault.move_pointer(KEY, lambda _: 7)
    before = vault.store.head(KEY)
    assert 7 == vault.move_pointer(KEY, lambda found: found)
    assert before == vault.store.head(KEY)


def test_a_pointer_that_is_not_json_is_corrupt_and_the_error_says_what_to_do(vault: Vault) -> None:
    vault.store.create(KEY, b"{not json")
    for look in (lambda: vault.pointer(KEY), lambda: vault.move_pointer(KEY, lambda _: 7)):
        with pytest.raises(Corrupt, match="is not JSON") as caught:
            look()
        assert "remove it; the next run writes it again" == caught.value.hint
