"""The debug bundle: what somebody who was not there needs to understand what happened, and nothing that is secret.

Each part is gathered by itself: what cannot be read is written down as the error's sentence, because a bundle is asked
for when something is broken. The config goes in as it is written: secrets stand in it by reference only. Of the
environment only the names go in.
"""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import tarfile
import time
from dataclasses import asdict
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

from understudy import __version__
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from understudy.service import Service

#: What a bundle takes of one epoch's journal, and of the log.
JOURNAL_ENTRIES_MAX = 10_000
_EPOCHS = 3


def parts_of(service: Service, config: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield each part's name and what gathers its text; nothing is read before that is called."""
    yield "versions.json", lambda: _json(versions())
    yield "environment.txt", lambda: "".join(f"{name}\n" for name in sorted(os.environ))
    yield f"config/{config.name}", lambda: config.read_text(encoding="utf-8")
    yield "status.json", lambda: _json(service.status().as_json())
    yield "check.json", lambda: _json(_check(service))
    yield "register.json", lambda: _json(_register(service))
    yield "failover.json", lambda: _json(_failover(service))
    yield "journal.jsonl", lambda: _journal(service)
    yield "vault.json", lambda: _json(_vault(service))


def versions() -> dict[str, Any]:
    """Return the versions of the product, Python, the system and every installed package."""
    packages = {found.metadata["Name"]: found.version for found in distributions() if found.metadata["Name"]}
    return {
        "understudy": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def write_bundle(service: Service, config: Path, target: Path) -> list[tuple[str, str]]:
    """Write the bundle as a .tar.gz.

    Args:
        service: whose stores are asked.
        config: the file that configures it.
        target: the archive; written beside its name first, so that it is whole when it is there.

    Returns:
        (part, error) of each part that could not be read; the error stands in the bundle in its place.

    Raises:
        OSError: the target cannot be written.
    """
    failed = []
    waiting = target.with_name(f".{target.name}.part")
    with tarfile.open(waiting, "w:gz") as archive:
        for name, gather in parts_of(service, config):
            try:
                text = gather()
            except UnderstudyError as error:
                failed.append((name, str(error)))
                text = f"could not be read: {error}\n"
            except Exception as error:  # noqa: BLE001 - one part must not cost the others
                failed.append((name, type(error).__name__))
                text = f"could not be read: unexpected {type(error).__name__}\n"
            data = text.encode()
            entry = tarfile.TarInfo(f"{target.name.split('.')[0]}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))
    waiting.chmod(0o600)
    waiting.replace(target)
    return failed


def _check(service: Service) -> list[dict[str, Any]]:
    from understudy.check import check_service

    return [asdict(finding) for finding in check_service(service)]


def _register(service: Service) -> dict[str, Any]:
    return service.register.read().model_dump(mode="json")


def _failover(service: Service) -> dict[str, Any]:
    from understudy.failover.status import failover_status

    sites = service.settings.sites
    return failover_status(
        service.register, service.vault, names={"home": sites.home.name, "away": sites.away.name}
    ).as_json()


def _journal(service: Service) -> str:
    """Return the newest epochs' entries, a line each, as they stand in the vault."""
    store = service.vault.store
    keys = [info.key for info in store.list("journal/") if info.key.endswith(".json")]
    epochs = sorted({key.split("/")[1] for key in keys})[-_EPOCHS:]
    chosen = [key for key in keys if key.split("/")[1] in epochs][-JOURNAL_ENTRIES_MAX:]
    return "".join(json.dumps({"key": key, "entry": json.loads(store.get(key))}) + "\n" for key in chosen)


def _vault(service: Service) -> dict[str, Any]:
    counts: dict[str, list[int]] = {}
    for info in service.vault.store.list():
        found = counts.setdefault(info.key.split("/")[0], [0, 0])
        found[0] += 1
        found[1] += info.size
    pinned = service.newest_set()
    return {
        "url": service.vault.url,
        "parts": {name: {"objects": count, "bytes": size} for name, (count, size) in sorted(counts.items())},
        "set": asdict(pinned) if pinned else None,
    }


def _json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n"
