"""What the documents say exists, exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import groupby
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


#: Blocks of "Protect your own" that are shown and not run here, by their first line, and why.
NOT_RUN = {
    "pip install '.[all]'": "asks the package index; make pythons does it on every Python",
    "understudy failover plan": "asks Route 53 and both sites' front doors; tests/drill runs it over sandbox sites",
}


def blocks_of(section):
    """Yield (language, text) of each block of a section of README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def comparable(text):
    """Return an output without what differs from run to run: times, keys, places, and how random bytes are cut."""
    text = re.sub(r"file://\S*/", "file:///", text)
    text = re.sub(r"ed25519:\S+", "ed25519:KEY", text)
    text = re.sub(r"[0-9.:]*[0-9](ms|h[0-9]+m|m[0-9]+s|d[0-9]+h|s|Z)\b", "TIME", text)
    text = re.sub(r"[0-9]+ chunks", "CHUNKS", text)  # of random bytes
    return [" ".join(line.split()) for line in text.splitlines()]


def shown_as(pattern, lines):
    """Whether lines are as shown, where ``...`` stands for any number of them."""
    groups = [list(group) for dots, group in groupby(pattern, lambda line: line == "...") if not dots]
    expression = ".*".join(re.escape("\n".join(group)) for group in groups)
    before, after = (".*" if pattern[end : end + 1 or None] == ["..."] else "" for end in (0, -1))
    return re.fullmatch(before + expression + after, "\n".join(lines), re.DOTALL) is not None


@pytest.mark.slow
def test_the_readmes_ten_minutes_print_what_it_shows(tmp_path):
    """Every line that is shown as typed is typed, in an empty folder, and prints what is shown."""
    place = tmp_path / "try"
    place.mkdir()
    known = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    environment = {**known, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "XDG_STATE_HOME": str(tmp_path)}
    typed_lines, left_out = 0, set()
    for language, text in blocks_of("Protect your own, in ten minutes"):
        if language == "yaml":
            (place / "config" / "production.yaml").write_text(text, encoding="utf-8")
            continue
        if language == "sh":
            left_out.add(text.splitlines()[0])
            continue
        assert "console" == language
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
            done = subprocess.run(
                ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, check=False
            )
            lines = done.stdout + (f"[exit {done.returncode}]\n" if done.returncode else "")
            assert shown_as(comparable(shown), comparable(lines)), f"{command}\n{lines}{done.stderr}"
            # Where a command takes more than some seconds it says how far it is.
            assert "" == re.sub(r"(?m)^\S+ \S+: .+ of .+ \(\d+ %\).*\n", "", done.stderr)
            typed_lines += 1
    assert left_out == set(NOT_RUN)
    assert typed_lines > 10


def test_what_is_shown_is_compared():
    lines = ["a", "b", "c", "d"]
    for same in (
        ["a", "b", "c", "d"],
        ["a", "...", "d"],
        ["...", "d"],
        ["a", "..."],
        ["...", "b", "...", "d"],
        ["..."],
    ):
        assert shown_as(same, lines), same
    for other in (["a", "b", "c"], ["a", "...", "e"], ["...", "c"], ["b", "..."], []):
        assert not shown_as(other, lines), other
    assert comparable("x 0.4s 12h00m  ok") == comparable("x 12.1s 1m02s ok")
    assert comparable("20 MB sent") != comparable("10 MB sent")


def test_the_project_speaks_of_itself_alone():
    banned = re.compile(r"/work/|/root/|\bLLM\b|\bsubagent|\bhelper [A-Z]\b|brief\.md", re.IGNORECASE)
    for file in [*ROOT.glob("**/*.py"), *DOCUMENTS, ROOT / "Makefile", ROOT / "pyproject.toml"]:
        if file == Path(__file__) or {".venv", ".uv", ".pythons"} & set(file.parts):
            continue
        assert banned.search(file.read_text(encoding="utf-8")) is None, file
