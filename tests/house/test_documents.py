"""What the documents say exists, exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from understudy.command.root import root

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def commands(group, path=()):
    """Yield every command line of the command, such as ``("failover", "plan")``."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


KNOWN = set(commands(root))


def typed(document, program):
    """Return what follows a program's name wherever it is shown as typed: after a back-tick, or on a new line."""
    return re.findall(rf"(?:^|`){program} ([a-z]+)(?: ([a-z]+))?", document.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_that_a_document_names_exists(document):
    targets = {target for target, _ in typed(document, "make")}
    assert set() == {target for target in targets if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_document_names_exists(document):
    groups = {path[0] for path in KNOWN if len(path) == 2}
    for first, second in typed(document, "understudy"):
        assert ((first, second) if first in groups and second else (first,)) in KNOWN, (first, second)


def test_every_next_command_that_the_product_offers_exists():
    offered = set()
    for file in ROOT.glob("understudy/**/*.py"):
        offered |= set(re.findall(r"understudy ([a-z]+) ([a-z]+)", file.read_text(encoding="utf-8")))
    assert len(offered) > 5
    groups = {path[0] for path in KNOWN if len(path) == 2}
    assert set() == {path for path in offered if path[0] in groups and path not in KNOWN}


def test_every_link_in_a_document_leads_somewhere():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name} -> {link}"


def test_every_decision_has_a_number_of_its_own_and_a_date():
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [f"{number:04d}" for number in range(1, len(pages) + 1)] == [page.name[:4] for page in pages]
    for page in pages:
        assert re.search(r"\d{4}-\d{2}-\d{2}", page.read_text(encoding="utf-8")), page.name


def test_the_project_speaks_of_itself_alone():
    banned = re.compile(r"/work/|/root/|\bLLM\b|\bsubagent|\bhelper [A-Z]\b|brief\.md", re.IGNORECASE)
    for file in [*ROOT.glob("**/*.py"), *DOCUMENTS, ROOT / "Makefile", ROOT / "pyproject.toml"]:
        if file == Path(__file__) or {".venv", ".uv", ".pythons"} & set(file.parts):
            continue
        assert banned.search(file.read_text(encoding="utf-8")) is None, file
