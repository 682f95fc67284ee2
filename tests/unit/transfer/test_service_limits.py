"""The limits of a config as a service's runs meet them: what is counted, what is refused, what never is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.models import model_files
from tests.unit.example import example_in_folders
from understudy.artifacts.catalog import all_manifests
from understudy.errors import InvalidConfig, Refused
from understudy.metrics.gather import gather
from understudy.metrics.instruments import TRANSFER_BUDGET, TRANSFERRED
from understudy.service import Service
from understudy.settings import Settings, parse_rate
from understudy.status import render
from understudy.transfer.limit import Bandwidth
from understudy.vault.verify import verify

if TYPE_CHECKING:
    from pathlib import Path


def open_service(folder: Path, *, dry: bool = False, **limits: str) -> Service:
    """Open a service whose models lie in folders, with version 1 of one of them at home."""
    document = example_in_folders(folder, limits=limits)
    for component in ("feature_store", "vector_index"):
        del document["components"][component]
    service = Service(Settings.model_validate(document), dry=dry)
    if not any((folder / "register").iterdir()):
        service.register.initialise("recommender")
        home = service.models(service.settings.pair("training"), "home")
        for path, data in model_files().items():
            home.put(f"m/1/{path}", data)
    return service


def push(service: Service) -> Any:
    [report] = service.push_artifacts(service.settings.pair("training"))
    return report


def forget(service: Service) -> None:
    """Lose the models of the home site."""
    home = service.models(service.settings.pair("training"), "home")
    for info in list(home.list("m/")):
        home.delete(info.key)


def counted(service: Service) -> int:
    found = service.transferred(service.vault.store.now())
    assert found is not None
    return found.bytes


def test_a_push_is_counted_to_the_byte_and_an_unchanged_one_adds_nothing(tmp_path: Path) -> None:
    service = open_service(tmp_path, transfer_month="1GB")
    report = push(service)
    assert report.bytes_sent <= counted(service) < report.bytes_sent + 1000
    before = counted(service)
    assert "unchanged" == push(open_service(tmp_path, transfer_month="1GB")).verdict
    assert before == counted(service)


def test_the_status_and_the_metrics_tell_what_is_used(tmp_path: Path) -> None:
    service = open_service(tmp_path, transfer_month="1MB")
    push(service)
    found = service.status()
    assert found.transfer is not None
    assert {"month": found.transfer.month, "bytes": counted(service), "budget": 1_000_000} == found.as_json()[
        "transfer"
    ]
    assert f"between the sites: {found.transfer.sentence}" in render(found)
    values = {sample.instrument: sample.value for sample in gather(service).samples}
    assert (counted(service), 1e6) == (values[TRANSFERRED], values[TRANSFER_BUDGET])
    assert open_service(tmp_path).status().as_json()["transfer"] is None


def test_without_a_budget_nothing_is_counted(tmp_path: Path) -> None:
    service = open_service(tmp_path)
    push(service)
    assert service.transferred(service.vault.store.now()) is None
    assert [] == list(service.vault.listing("pointers/transfer/"))


def test_a_push_beyond_the_budget_is_refused_before_its_pack_is_sent(tmp_path: Path) -> None:
    service = open_service(tmp_path, transfer_month="100kB")
    with pytest.raises(Refused, match=r"limits\.transfer_month is used up: 0 B of 100 kB") as refused:
        push(service)
    assert 4 == refused.value.exit_code
    assert [] == all_manifests(service.vault, "m")
    assert [] == list(service.vault.listing("packs/"))
    report = push(open_service(tmp_path, transfer_month="1MB"))
    assert ("changed", "sha256 5/5") == (report.verdict, report.proven)
    assert verify(service.vault, deep=True).ok


def test_a_failover_is_never_stopped_by_the_budget(tmp_path: Path) -> None:
    push(open_service(tmp_path, transfer_month="1GB"))
    service = open_service(tmp_path, transfer_month="1kB")
    training = service.settings.pair("training")
    assert ["changed"] == [report.verdict for report in service.hydrate(training, role="away")]
    service.journal_vault().put_once("journal/00000002/00000001.json", b"{}\n" + b" " * 4000)
    before = counted(service)
    forget(service)
    assert ["changed"] == [report.verdict for report in service.hydrate(training, role="home")]
    assert counted(service) > before + 200_000


def test_what_a_site_reads_beside_its_vault_is_not_counted(tmp_path: Path) -> None:
    service = open_service(tmp_path, transfer_month="1GB")
    push(service)
    before = counted(service)
    service.hydrate(service.settings.pair("training"), role="away")
    assert before == counted(service)


def test_a_dry_run_counts_nothing(tmp_path: Path) -> None:
    service = open_service(tmp_path, dry=True, transfer_month="1kB", bandwidth="1kB/s")
    assert push(service).bytes_sent > 100_000
    assert [] == list(service.vault.listing("pointers/transfer/"))


def test_copies_between_the_sites_are_held_to_the_bandwidth_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(Bandwidth, "take", lambda _self, count: taken.append(count))
    service = open_service(tmp_path, bandwidth="5MB/s")
    report = push(service)
    assert report.bytes_sent <= sum(taken)
    taken.clear()
    service.hydrate(service.settings.pair("training"), role="away")
    assert [] == taken
    forget(service)
    service.hydrate(service.settings.pair("training"), role="home")
    assert sum(taken) > 200_000


@pytest.mark.parametrize(
    ("setting", "text", "words"),
    [
        ("bandwidth", "500", "is no rate; write it in bytes a second, such as 500MB/s"),
        ("bandwidth", "500MB", "is no rate"),
        ("bandwidth", "1Gbit/s", "is no rate"),
        ("bandwidth", "0MB/s", "greater than 0"),
        ("transfer_month", "20", "is no amount; write it with its unit"),
        ("transfer_month", "20TB/month", "is no amount"),
    ],
)
def test_a_limit_without_its_unit_is_refused_in_one_sentence(
    tmp_path: Path, setting: str, text: str, words: str
) -> None:
    with pytest.raises((InvalidConfig, ValueError), match=words):
        Settings.model_validate(example_in_folders(tmp_path, limits={setting: text}))


def test_rates_are_bytes_a_second() -> None:
    assert [500_000_000, 1_500_000_000, 20_000] == [parse_rate(text) for text in ("500MB/s", "1.5 GB/s", "20kB/s")]
