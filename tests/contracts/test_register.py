"""The register over every store it may live in: one of many commanders wins; who lost its epoch renews nothing."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import OBJECT_SERVERS
from understudy.errors import Conflict, HeldByAnother, NotFound, Refused, Transient, UnderstudyError
from understudy.failover.hold import Hold
from understudy.failover.lease import StrictLease
from understudy.failover.register import Claim, Register
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import ObjectServer
    from understudy.objects.interface import ObjectStore


@pytest.fixture(params=["memory", "file", *OBJECT_SERVERS])
def register(request: pytest.FixtureRequest, tmp_path: Path) -> Register:
    if request.param == "memory":
        found = Register(MemoryStore(), margin=0.05)
    elif request.param == "file":
        found = Register(FileStore(tmp_path), margin=0.05)
    else:
        server: ObjectServer = request.getfixturevalue("object_server")(request.param)
        found = Register(server.open(server.make_bucket(), "recommender"), margin=2.0)
    found.initialise("recommender")
    return found


@pytest.fixture
def quick() -> Register:
    """A register whose clock is precise."""
    found = Register(MemoryStore(), margin=0.02)
    found.initialise("recommender")
    return found


def claim(register: Register, who: str = "ana", *, seconds: float = 15, plan: str = "aaaaaa") -> Claim:
    return register.claim(1, who=who, host="bastion-2", plan=plan, target="away", seconds=seconds)


def test_a_register_is_never_overwritten(register: Register) -> None:
    with pytest.raises(Conflict):
        register.initialise("recommender")

    assert (1, "home", True) == (register.read().epoch, register.read().active, register.read().writes)


def test_a_register_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(NotFound, match="there is no register"):
        Register(MemoryStore()).read()


def test_of_many_commanders_at_once_exactly_one_wins(register: Register) -> None:
    barrier = threading.Barrier(6)

    def press(n: int) -> str:
        barrier.wait()
        try:
            return f"won {claim(register, f'c{n}').holder.who}"
        except HeldByAnother as error:
            return error.message

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(press, range(6)))

    winner = register.read().holder
    assert winner is not None
    assert [f"won {winner.who}"] == [answer for answer in answers if answer.startswith("won")]
    said = f"{winner.who}@bastion-2 holds epoch 2 since {winner.since:%H:%M:%S}Z, at validate"
    assert 5 == answers.count(said)


def test_after_a_claim_no_writer_can_renew(register: Register) -> None:
    register.renew("home-1", "home", 1, 5)
    claim(register)

    with pytest.raises(Conflict, match="knows epoch 1, the register is at epoch 2"):
        register.renew("home-1", "home", 1, 5)
    assert not register.renew("home-1", "home", 2, 5).writes
    assert 1 == register.read().leases["home-1"].epoch


def test_many_writers_renew_at_once_and_none_is_lost(register: Register) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: register.renew(f"home-{n}", "home", 1, 5), range(6)))

    assert [f"home-{n}" for n in range(6)] == list(register.read().leases_of("home"))
    register.drop("home-3")
    register.drop("home-3")
    assert "home-3" not in register.read().leases


def test_a_writer_of_the_other_site_gets_no_lease(register: Register) -> None:
    with pytest.raises(Conflict, match="the home site is active"):
        register.renew("away-1", "away", 1, 5)


def test_writes_stay_off_without_proof_at_this_very_epoch(register: Register) -> None:
    mine = claim(register)

    with pytest.raises(Refused, match="epoch 2 has no proof"):
        register.enable_writes(mine)
    assert ("home", False) == (register.read().active, register.read().writes)

    register.record_fence(mine, "leases", {"waited_seconds": 7})
    state = register.enable_writes(mine)
    assert ("away", True) == (state.active, state.writes)
    assert state == register.enable_writes(mine)
    assert {} == register.finish(mine, {}).leases
    assert register.renew("away-1", "away", 2, 5).writes


def test_the_proof_of_an_earlier_epoch_proves_nothing(quick: Register) -> None:
    mine = claim(quick)
    quick.record_fence(mine, "leases", {})
    quick.release(mine, "false alarm")
    again = quick.claim(2, who="ana", host="b", plan="bbbbbb", target="away")

    with pytest.raises(Refused, match="no proof"):
        quick.enable_writes(again)


def test_a_proof_left_over_from_another_epoch_proves_nothing(quick: Register) -> None:
    mine = claim(quick)
    quick.record_fence(mine, "leases", {})
    left = quick.read()
    assert left.fence is not None
    old = left.model_copy(update={"fence": left.fence.model_copy(update={"epoch": 1})})
    quick.store.put("register.json", old.model_dump_json().encode())

    with pytest.raises(Refused, match="no proof"):
        quick.enable_writes(mine)


def test_an_aborted_failover_gives_the_old_site_its_writes_back_at_the_new_epoch(quick: Register) -> None:
    quick.release(claim(quick), "false alarm")

    with pytest.raises(Conflict):
        quick.renew("home-1", "home", 1, 5)
    assert quick.renew("home-1", "home", 2, 5).writes


def test_what_writes_already_is_not_aborted(quick: Register) -> None:
    mine = claim(quick)
    quick.record_fence(mine, "leases", {})
    quick.enable_writes(mine)

    with pytest.raises(Refused, match="Going back is a failback"):
        quick.release(mine, "regret")


def test_a_plan_of_another_epoch_is_refused(register: Register) -> None:
    with pytest.raises(Refused, match="the register is at epoch 1, the plan was made at epoch 4"):
        register.claim(4, who="ana", host="b", plan="aaaaaa", target="away")


def test_a_hold_is_taken_over_only_after_it_lapsed_and_only_by_the_same_plan(quick: Register) -> None:
    first = claim(quick, seconds=0.2)

    with pytest.raises(HeldByAnother, match="ana@bastion-2 holds epoch 2"):
        quick.take_over("aaaaaa", who="bob", host="b")
    time.sleep(0.25)
    with pytest.raises(Refused, match="ana@bastion-2 left plan aaaaaa part way"):
        claim(quick, "eve", plan="bbbbbb")
    second = quick.take_over("aaaaaa", who="bob", host="b")

    assert ("ana@bastion-2", first.claimed_at) == (second.taken_over_from, second.claimed_at)
    with pytest.raises(HeldByAnother, match="bob@b holds"):
        quick.beat(first, "dns")
    with pytest.raises(HeldByAnother):
        quick.record_fence(first, "leases", {})


def test_who_left_in_order_is_resumed_at_once(quick: Register) -> None:
    quick.leave(claim(quick, seconds=60), "scale")

    assert "ana@bastion-2" == quick.take_over("aaaaaa", who="bob", host="b").taken_over_from


def test_a_holder_stays_alive_while_it_works(quick: Register) -> None:
    with Hold(quick, claim(quick, seconds=0.15), seconds=0.15) as hold:
        hold.at("dns")
        time.sleep(0.5)
        hold.check()
        with pytest.raises(HeldByAnother, match="at dns"):
            quick.take_over("aaaaaa", who="bob", host="b")


class Faulty:
    """A store that can be cut off."""

    def __init__(self, store: ObjectStore | None = None) -> None:
        self.cut = False
        self._store = store or MemoryStore()

    def __getattr__(self, name: str) -> Any:
        if self.cut and name != "url":
            raise Transient("cut off")
        return getattr(self._store, name)


def test_a_holder_that_cannot_reach_the_register_stops_before_it_can_be_replaced() -> None:
    store = Faulty()
    register = Register(store, margin=0.02)
    register.initialise("recommender")
    with Hold(register, claim(register, seconds=0.2), seconds=0.2) as hold:
        hold.check()
        store.cut = True
        time.sleep(0.25)

        with pytest.raises(UnderstudyError, match="may be lost"):
            hold.check()


def test_a_writer_writes_while_it_renews_and_stops_by_itself_when_cut_off() -> None:
    store = Faulty()
    register = Register(store, margin=0.02)
    register.initialise("recommender")
    lease = StrictLease(register, name="home-1", site="home", seconds=0.3).start()
    time.sleep(0.5)
    assert lease.may_write()

    store.cut = True
    time.sleep(0.1)
    assert lease.may_write()
    time.sleep(0.3)
    assert not lease.may_write()
    assert "cut off" in lease.why_not()

    store.cut = False
    time.sleep(0.2)
    assert lease.may_write()
    lease.stop()
    assert not lease.may_write()
    assert {} == register.read().leases


def test_the_last_possible_write_of_a_cut_off_writer_is_before_the_proof() -> None:
    outside = Register(MemoryStore(), margin=0.05)
    outside.initialise("recommender")
    store = Faulty(outside.store)
    register = Register(store, margin=0.05)
    lease = StrictLease(register, name="home-1", site="home", seconds=0.3).start()
    store.cut = True
    mine = outside.claim(1, who="ana", host="b", plan="aaaaaa", target="away")
    while (outside.now() - mine.claimed_at).total_seconds() < 0.3 + outside.margin:
        time.sleep(0.01)

    assert not lease.may_write()
    lease.stop()


def test_a_writer_follows_the_register_to_a_new_epoch_only_when_its_site_is_active(quick: Register) -> None:
    home = StrictLease(quick, name="home-1", site="home", seconds=5)
    away = StrictLease(quick, name="away-1", site="away", seconds=5)
    assert (True, False) == (home.renew_once(), away.renew_once())

    mine = claim(quick)
    assert (False, False) == (home.renew_once(), away.renew_once())
    assert not home.renew_once()
    quick.record_fence(mine, "leases", {})
    quick.enable_writes(mine)

    assert (False, True) == (home.renew_once() or home.renew_once(), away.renew_once() or away.renew_once())
    assert 2 == away.epoch
    home.stop()
    away.stop()


def test_writers_that_are_long_gone_are_forgotten(quick: Register) -> None:
    quick.renew("home-1", "home", 1, 0.01)
    time.sleep(0.25)
    quick.renew("home-2", "home", 1, 0.01)

    assert ["home-2"] == list(quick.read().leases)
