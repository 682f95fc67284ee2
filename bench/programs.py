"""Understudy, restic and borg as the same thing: a program that keeps versions of a folder in a local repository."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Protocol

from bench.measuring import Run, folder_bytes, measure, median_cpu

if TYPE_CHECKING:
    from pathlib import Path

#: A service of models alone, in folders.
_CONFIG = """
service: bench
sites: {{home: {{name: one, cloud: aws}}, away: {{name: two, cloud: gcp}}}}
vault: {{url: "file://{place}/vault"}}
register: {{url: "file://{place}/register"}}
components:
  training:
    rto: 4h
    rpo: 24h
    pairs: [{{name: models, home: "file://{place}/models", away: "file://{place}/serving", every: "02:00,14:00"}}]
traffic: {{url: "route53://Z0/bench.example", addresses: {{home: 192.0.2.10, away: 198.51.100.20}}}}
capacity: {{away: "fixed://2", warm: 2, full: 2}}
"""


class Program(Protocol):
    """One program and the repositories that it makes, each in a folder of its own."""

    name: str

    def version(self) -> list[str]:
        """Return the command that prints its version: what it costs to start."""

    def keep(self, place: Path, version: Path) -> Run:
        """Keep one more version in the repository below ``place``, which it makes when there is none."""

    def stored(self, place: Path) -> int:
        """Return the bytes of the repository."""

    def restore(self, place: Path, version: Path, target: Path) -> tuple[Run, Path]:
        """Restore what was kept last, ``version``, below an empty folder; return where its files are there."""


class Understudy:
    """Ours, the command as a user gives it: the models lie in ``models``, the vault in ``vault``."""

    name = "understudy"

    def version(self) -> list[str]:
        """See Program."""
        return [sys.executable, "-m", "understudy", "--version"]

    def keep(self, place: Path, version: Path) -> Run:
        """Link the version's files as the next one below ``models``, unless they are the last, and push."""
        models, command = place / "models" / "bench", self._command(place)
        (place / "config.yaml").write_text(_CONFIG.format(place=place))
        if not models.exists():
            for folder in (models, place / "vault", place / "register", place / "serving"):
                folder.mkdir(parents=True)
            measure([*command, "register", "init"])
        number = len(list(models.iterdir()))
        last = models / str(number)
        if not number or any(not (last / each.name).samefile(each) for each in version.iterdir()):
            link(version, models / str(number + 1))
        return measure([*command, "--json", "artifacts", "push"])

    def stored(self, place: Path) -> int:
        """See Program."""
        return folder_bytes(place / "vault")

    def restore(self, place: Path, version: Path, target: Path) -> tuple[Run, Path]:
        """See Program."""
        del version
        (place / "config.yaml").write_text(_CONFIG.format(place=place))  # the place may be a copy
        number = str(len(list((place / "models" / "bench").iterdir())))
        run = measure([*self._command(place), "artifacts", "pull", "bench", number, "--to", str(target)])
        return run, target / "bench" / number

    def _command(self, place: Path) -> list[str]:
        return [sys.executable, "-m", "understudy", "-c", str(place / "config.yaml")]


class Restic:
    """With ``--compression max``."""

    name = "restic"

    def version(self) -> list[str]:
        """See Program."""
        return ["restic", "version"]

    def keep(self, place: Path, version: Path) -> Run:
        """See Program."""
        environment = self._environment(place)
        if not (place / "repository").exists():
            measure(["restic", "init", "-q"], environment)
        return measure(["restic", "backup", "-q", "--compression", "max", str(version)], environment)

    def stored(self, place: Path) -> int:
        """See Program."""
        return folder_bytes(place / "repository")

    def restore(self, place: Path, version: Path, target: Path) -> tuple[Run, Path]:
        """See Program."""
        command = ["restic", "restore", "-q", "latest", "--target", str(target)]
        return measure(command, self._environment(place)), target / version.relative_to("/")

    def _environment(self, place: Path) -> dict[str, str]:
        return {
            "RESTIC_PASSWORD": "bench",
            "RESTIC_REPOSITORY": str(place / "repository"),
            "RESTIC_CACHE_DIR": str(place / "cache"),
        }


class Borg:
    """With zstd at level 3, not encrypted."""

    name = "borg"

    def version(self) -> list[str]:
        """See Program."""
        return ["borg", "--version"]

    def keep(self, place: Path, version: Path) -> Run:
        """See Program."""
        repository, environment = place / "repository", self._environment(place)
        if not repository.exists():
            measure(["borg", "init", "-e", "none", str(repository)], environment)
        return measure(["borg", "create", "-C", "zstd,3", f"{repository}::{{now:%H%M%S%f}}", str(version)], environment)

    def stored(self, place: Path) -> int:
        """See Program."""
        return folder_bytes(place / "repository")

    def restore(self, place: Path, version: Path, target: Path) -> tuple[Run, Path]:
        """See Program."""
        repository, environment = str(place / "repository"), self._environment(place)
        last = measure(["borg", "list", "--short", "--last", "1", repository], environment).output.strip()
        run = measure(["borg", "extract", f"{repository}::{last}"], environment, folder=target)
        return run, target / version.relative_to("/")

    def _environment(self, place: Path) -> dict[str, str]:
        return {
            "BORG_BASE_DIR": str(place / "home"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }


def programs() -> tuple[list[Program], list[str]]:
    """Return the programs that are installed, ours first, and the names of those that are not."""
    everyone: list[Program] = [Understudy(), Restic(), Borg()]
    there = [program for program in everyone if shutil.which(program.version()[0])]
    return there, [program.name for program in everyone if program not in there]


def start_up(program: Program) -> float:
    """Return the CPU seconds that a program takes to print its version."""
    return median_cpu(lambda: measure(program.version()))


def link(source: Path, target: Path) -> None:
    """Make a folder with hard links to the files of another."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        os.link(path, target / path.name)


def copy_state(place: Path, target: Path) -> None:
    """Copy a repository with its caches; files of ours and of restic are never changed in place, borg's may be."""
    shutil.copytree(place, target, copy_function=shutil.copy2 if (place / "home").exists() else os.link)
