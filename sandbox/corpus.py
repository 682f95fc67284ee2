"""Real passages for the index: what the docstrings of this Python's standard library say.

Sources are parsed, never imported, so that nothing runs. A passage is as many whole sentences of a
docstring's first paragraphs as fit into 64 tokens; its id is the dotted name, such as ``json.dumps``.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TOKENS_MAX = 64
_WORDS_MIN = 4
_SKIPPED = frozenset(
    [
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "ensurepip",
        "site-packages",
        "dist-packages",
        "pydoc_data",
        "distutils",
        "__pycache__",
        "tkinter",
        "antigravity.py",
        "this.py",
        "turtle.py",
        "__phello__",
        "lib-dynload",
        "msilib",
        "pydoc.py",
        "_pyrepl",
    ]
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(])")


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage: id such as ``json.dumps``, the title people read, the body that is embedded."""

    id: str
    title: str
    body: str


def passages(
    count_tokens: Callable[[Sequence[str]], list[int]], *, most: int = 2_000, library: Path | None = None
) -> list[Passage]:
    """Return the passages of the standard library, each text once, the shortest first (then by id).

    Args:
        count_tokens: how many tokens texts have, the special ones included.
        most: how many are taken; when there are more, modules give way in the order of how deep and how private
            they are, the last of the alphabet first.
        library: the directory of the standard library; None means the running Python's.
    """
    root = library or Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, list[str]] = {}
    for path in _sources(root):
        for name, docstring in _docstrings(path, root):
            if name not in found and (pieces := _pieces(docstring)):
                found[name] = pieces
    bodies = _fit(found, count_tokens)
    taken: dict[str, str] = {}
    for name in sorted(bodies, key=lambda name: (name.count("."), name)):
        if bodies[name] not in taken:
            taken[bodies[name]] = name
        if len(taken) == most:
            break
    lengths = dict(zip(taken, count_tokens(list(taken)), strict=True))
    ordered = sorted(taken, key=lambda body: (lengths[body], taken[body]))
    return [Passage(id=taken[body], title=_title(body), body=body) for body in ordered]


def _sources(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.name in _SKIPPED or path.name.startswith("_"):
            continue
        if path.is_dir():
            yield from _sources(path)
            continue
        if path.suffix == ".py":
            yield path
    if (root / "__init__.py").is_file():
        yield root / "__init__.py"


def _docstrings(path: Path, root: Path) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a distribution may ship templates
        return
    parts = list(path.relative_to(root).with_suffix("").parts)
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    yield from _below(tree, module)


def _below(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    docstring = ast.get_docstring(node)
    if docstring:
        yield name, docstring
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not child.name.startswith("_"):
            yield from _below(child, f"{name}.{child.name}")


def _pieces(docstring: str) -> list[str]:
    """Return the sentences of the first paragraphs, up to the first one that is a table, an example or a list."""
    pieces: list[str] = []
    for paragraph in docstring.split("\n\n"):
        if not paragraph.strip():
            continue
        if paragraph[:1] in " \t" or any(mark in paragraph for mark in (">>>", "---", "===", "...", " - ")):
            break
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            if pieces and not sentence.endswith((".", "!", "?", ")")):  # leads to an example that is not taken
                return pieces
            pieces.append(sentence)
        if len(pieces) > 12:
            break
    return pieces


def _fit(found: dict[str, list[str]], count_tokens: Callable[[Sequence[str]], list[int]]) -> dict[str, str]:
    """Return the longest run of first sentences that fits, for each name where one does."""
    tries = [(name, " ".join(pieces[:end])) for name, pieces in found.items() for end in range(1, len(pieces) + 1)]
    bodies: dict[str, str] = {}
    for (name, body), tokens in zip(tries, count_tokens([body for _, body in tries]), strict=True):
        if tokens <= TOKENS_MAX and len(body.split()) >= _WORDS_MIN:
            bodies[name] = body
    return bodies


def _title(body: str) -> str:
    sentence = _SENTENCE_END.split(body)[0].rstrip(".")
    return sentence if len(sentence) <= 100 else sentence[:97].rsplit(" ", 1)[0] + "..."
