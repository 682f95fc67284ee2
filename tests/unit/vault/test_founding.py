"""To open a vault only reads: the first write makes it one, of the service that wrote."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from understudy.errors import Refused
from understudy.objects.memory import MemoryStore
from understudy.vault.dry import DryStore
from understudy.vault.store import Vault, open_vault

WRITES = {
    "put_once": lambda vault: vault.put_once("artifacts/m/1/00000001.json", b"{}"),
    "append": lambda vault: vault.append("journal/00000001/", lambda _n: b"{}"),
    "move_pointer": lambda vault: vault.move_pointer("pointers/x.json", lambda _: 1),
    "create": lambda vault: vault.store.create("packs/x", b"x"),
    "create_stream": lambda vault: vault.store.create_stream("features/x", iter([b"x"]), 1),
    "put": lambda vault: vault.store.put("x", b"x"),
    "put_stream": lambda vault: vault.store.put_stream("x", iter([b"x"]), 1),
    "replace": lambda vault: vault.store.replace("x", b"x", expected=None),
}


def keys(store: MemoryStore) -> list[str]:
    return sorted(info.key for info in store.list())


def whose(store: MemoryStore) -> str:
    return str(json.loads(Vault(store).store.get("format.json"))["service"])


def test_opening_and_reading_an_empty_vault_leaves_it_empty() -> None:
    store = MemoryStore()
    vault = open_vault(store, service="typo")
    assert (0, None) == (vault.latest("artifacts/"), vault.pointer("pointers/x.json"))
    vault.store.now()
    vault.bare.create("probe/x", b"x")
    assert ["probe/x"] == keys(store)
    open_vault(store, service="shop").put_once("a/1", b"{}")
    assert "shop" == whose(store)


@pytest.mark.parametrize("write", WRITES)
def test_whichever_write_comes_first_makes_it_the_services_vault(write: str) -> None:
    store = MemoryStore()
    WRITES[write](open_vault(store, service="shop"))
    assert ("shop", 2) == (whose(store), len(keys(store)))
    with pytest.raises(Refused, match="belongs to the service 'shop', this config is for typo"):
        open_vault(store, service="typo")


@pytest.mark.parametrize("write", WRITES)
def test_a_write_to_what_became_another_services_vault_meanwhile_is_refused(write: str) -> None:
    store = MemoryStore()
    late = open_vault(store, service="late")
    open_vault(store, service="shop").put_once("a/1", b"{}")
    before = keys(store)
    for _ in range(2):
        with pytest.raises(Refused, match="belongs to the service 'shop'"):
            WRITES[write](late)
    assert before == keys(store)


def test_many_threads_and_two_runs_of_one_service_make_it_together() -> None:
    store = MemoryStore()
    vaults = [open_vault(store, service="shop") for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: vaults[n % 2].put_once(f"a/{n}", b"{}"), range(32)))
    assert (33, "shop") == (len(keys(store)), whose(store))


def test_a_dry_run_makes_no_vault() -> None:
    store = MemoryStore()
    vault = open_vault(DryStore(store), service="shop")
    vault.put_once("a/1", b"{}")
    assert ["a/1", "format.json"] == sorted(info.key for info in vault.store.list())
    assert [] == keys(store)
