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
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy import __version__
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from understudy.service import Service

#: What a bundle takes of the journal: the newest entries of the newest epochs.
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
        target: the archive; written beside its name first, so that it is whole when it is there. Nothing else is
            changed.

    Returns:
        (part, error) of each part that could not be read; the error stands in the bundle in its place.

    Raises:
        OSError: the target cannot be written.
    """
    failed = []
    # Unique, and readable by nobody else from its first byte on.
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    waiting = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for part, gather in parts_of(service, config):
                text, problem = _gathered(gather)
                if problem:
                    failed.append((part, problem))
                data = text.encode()
                entry = tarfile.TarInfo(f"{target.name.split('.')[0]}/{part}")
                entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(data))
        waiting.replace(target)
    finally:
        waiting.unlink(missing_ok=True)
    return failed


def _gathered(gather: Callable[[], str]) -> tuple[str, str]:
    """Return a part's text, and why it could not be read or nothing."""
    try:
        return gather(), ""
    except UnderstudyError as error:
        return f"could not be read: {error}\n", str(error)
    except Exception as error:  # noqa: BLE001 - one part must not cost the others
        return f"could not be read: unexpected {type(error).__name__}\n", type(error).__name__


def _check(service: Service) -> list[dict[str, Any]]:
    from understudy.check import check_service

    return [asdict(finding) for finding in check_service(service, writes=False)]


def _register(service: Service) -> dict[str, Any]:
    return service.register.read().model_dump(mode="json")


def _failover(service: Service) -> dict[str, Any]:
    from understudy.failover.status import failover_status

    return failover_status(service.register, service.vault, names=service.settings.site_names()).as_json()


def _journal(service: Service) -> str:
    """Return the newest epochs' entries, a line each with the copies that hold it, then what could not be read."""
    from understudy.failover.journal import gather_journals, prefix_of
    from understudy.service import state_directory
    from understudy.vault.store import Vault, numbered

    found = gather_journals(
        {"vault": service.journal_vault, "register": lambda: Vault(service.register.store)},
        state_directory() / "journal" / service.name,
        epochs_max=_EPOCHS,
        entries_max=JOURNAL_ENTRIES_MAX,
    )
    lines: list[dict[str, Any]] = [
        {"key": f"{prefix_of(entry.epoch)}{numbered(entry.n)}.json", "copies": copies, "entry": asdict(entry)}
        for entry, copies in found.entries
    ]
    lines += [{"copy": name, "could not be read": words} for name, words in found.problems]
    return "".join(json.dumps(line) + "\n" for line in lines)


def _vault(service: Service) -> dict[str, Any]:
    from understudy.vault.holdings import count_parts, holdings

    return holdings(service.vault, count_parts(service.vault), service.newest_set())


def _json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n"
