"""Whether a version at the source is a whole model, and a child of its parent. No I/O here.

What cannot be a whole model is held: an upload may still go on. What contradicts itself, or its parent, is refused. A
person may accept either, with a reason that the manifest keeps; files that lie are then kept as plain bytes.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from understudy.vault.documents import TooMuch, parse_json, quoted, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from understudy.artifacts.cut import Described

#: Files that must parse; what names a model's parts is in them.
_JSON_NAMES = frozenset({"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"})
_SHARDS_SUFFIX = ".safetensors.index.json"
_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".onnx",
    ".h5",
    ".keras",
    ".pb",
    ".msgpack",
    ".tflite",
    ".npz",
)
#: A longer JSON file is not held in memory to be checked.
JSON_BYTES_MAX = 64 << 20
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5,6})-of-(?P<total>[0-9]{5,6})\.safetensors")
#: The embedding of a language model, as transformers names it in its many families.
_EMBEDDING = re.compile(r"(?:^|\.)(?:word_embeddings|embed_tokens|wte|tok_embeddings)\.weight$")
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_WIDTHS = ("embedding_size", "word_embed_proj_dim", "hidden_size")
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class Document:
    """What is needed of a JSON file that was checked.

    Attributes:
        weight_map: tensor to shard, where it is a list of shards; else None.
        numbers: the sizes that a config declares of the embedding, by their names there.
    """

    weight_map: dict[str, str] | None = None
    numbers: dict[str, int] = field(default_factory=dict)


def is_checked_json(path: str, size: int) -> bool:
    """Return whether this file is read before the others and must parse as JSON."""
    name = path.rpartition("/")[2]
    return size <= JSON_BYTES_MAX and (name in _JSON_NAMES or name.endswith(_SHARDS_SUFFIX))


def is_list_of_shards(path: str) -> bool:
    """Return whether this file names the shards of a model."""
    return path.endswith(_SHARDS_SUFFIX)


def read_document(path: str, data: bytes) -> Document | str:
    """Return what a JSON file says, or why it shows that the model is not whole."""
    try:
        value = parse_json(data)
    except TooMuch as error:
        return f"{path} {error}"
    except ValueError:
        return f"{path} is not complete JSON"
    if is_list_of_shards(path):
        weights = value.get("weight_map") if isinstance(value, dict) else None
        if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
            return f"{path} has no weight_map"
        return Document(weight_map=weights)
    if path.rpartition("/")[2] == "config.json" and not isinstance(value, dict):
        return f"{path} is not an object"
    return Document(numbers=_numbers(value) if path.rpartition("/")[2] == "config.json" else {})


def complaint_about_files(sizes: Mapping[str, int]) -> str | None:
    """Return why the files (path to bytes) cannot be a whole model, None when they can."""
    if "config.json" in sizes and not any(path.endswith(_WEIGHTS) for path in sizes):
        return "config.json is there, no weights are yet"
    empty = sorted(path for path, size in sizes.items() if size == 0 and path.endswith(_WEIGHTS))
    if empty:
        return f"{empty[0]} is empty"
    return None


def complaints_about_shards(
    paths: Collection[str],
    documents: Mapping[str, Document],
    described: Callable[[str], Mapping[str, Described] | None],
) -> list[str]:
    """Return what is missing of, or too much in, a model that is cut into shards.

    Args:
        paths: of all files of the model.
        documents: what its JSON files say, by path.
        described: returns the tensors of a safetensors file by its path, None where they are not known.
    """
    found: list[str] = []
    named: set[str] = set()
    for path, document in sorted(documents.items()):
        if document.weight_map is None:
            continue
        below, stem = _below(path), path.rpartition("/")[2].removesuffix(_SHARDS_SUFFIX)
        shards = {below + shard for shard in document.weight_map.values()}
        named |= shards
        missing = sorted(shards.difference(paths))
        if missing:
            found.append(f"{path} names {_some(missing, below)}, not there yet")
            continue
        extra = [other for other in paths if (cut := _SHARD.fullmatch(other)) and cut["stem"] == below + stem]
        if unnamed := sorted(set(extra) - shards):
            found.append(f"{path} does not name {_some(unnamed, below)}")
        found += _complaints_about_tensors(path, below, document.weight_map, described)
    return found + _complaints_about_numbers(paths, named)


def _complaints_about_tensors(
    path: str, below: str, weight_map: Mapping[str, str], described: Callable[[str], Mapping[str, Described] | None]
) -> list[str]:
    listed: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        listed.setdefault(shard, set()).add(name)
    found = []
    for shard, names in sorted(listed.items()):
        tensors = described(below + shard)
        if tensors is None:
            continue
        if lost := sorted(names.difference(tensors)):
            found.append(f"{path} names {_some(lost)} in {shown(shard)}, which does not have it")
        if more := sorted(set(tensors).difference(names)):
            found.append(f"{shard} has {_some(more)}, which {path} does not name there")
    return found


def _complaints_about_numbers(paths: Collection[str], named: set[str]) -> list[str]:
    """Look at shards without a list: their names say how many there are."""
    groups: dict[tuple[str, str], set[int]] = {}
    for path in paths:
        if path not in named and (cut := _SHARD.fullmatch(path)):
            groups.setdefault((cut["stem"], cut["total"]), set()).add(int(cut["number"]))
    return [
        f"{stem} has {len(numbers)} of its {int(total)} shards"
        for (stem, total), numbers in sorted(groups.items())
        if len(numbers) < int(total) and not any(path.startswith(f"{stem}-") for path in named)
    ]


def complaints_about_config(
    documents: Mapping[str, Document],
    paths: Collection[str],
    described: Callable[[str], Mapping[str, Described] | None],
) -> list[str]:
    """Return where a config declares other sizes than the embedding beside it has."""
    found = []
    for path, document in sorted(documents.items()):
        if not document.numbers:
            continue
        below = _below(path)
        beside = [other for other in paths if other.endswith(".safetensors") and _below(other) == below]
        for other in sorted(beside):
            for name, (dtype, shape) in (described(other) or {}).items():
                if dtype in _FLOATS and len(shape) == 2 and _EMBEDDING.search(name):
                    found += [
                        f"{path} declares {label} {wanted}, {shown(name)} in {other} is {dtype} {list(shape)}"
                        for label, wanted, length in _declared(document.numbers, shape)
                        if wanted != length
                    ]
    return found


def complaints_about_names(paths: Iterable[str]) -> list[str]:
    """Return which files would be one where names are compared without case, or in one Unicode form."""
    seen: dict[str, str] = {}
    found = []
    for path in sorted(paths):
        other = seen.setdefault(folded(path), path)
        if other != path:
            found.append(f"{other!r} and {path!r} differ in case or Unicode form alone")
    return found


def folded(path: str) -> str:
    """Return what two paths have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def group_of(path: str) -> str:
    """Return what a safetensors file is a part of: its path without the number of its shard."""
    cut = _SHARD.fullmatch(path)
    return cut["stem"] if cut else path.removesuffix(".safetensors")


def differences(before: Mapping[str, Described], after: Mapping[str, Described]) -> list[str]:
    """Return how the tensors of a child differ from its parent's, a sentence a kind of difference."""
    found = []
    if lost := sorted(before.keys() - after.keys()):
        found.append(f"lacks {_count(lost)} of its parent ({_some(lost)})")
    if added := sorted(after.keys() - before.keys()):
        found.append(f"adds {_count(added)} ({_some(added)})")
    changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    if changed:
        told = [f"{shown(name)}: {_words(before[name])} -> {_words(after[name])}" for name in changed[:_NAMED_MAX]]
        more = f" and {len(changed) - _NAMED_MAX} more" if len(changed) > _NAMED_MAX else ""
        found.append(f"changes {_count(changed)} ({'; '.join(told)}{more})")
    return found


def lost_files(before: Iterable[str], after: Collection[str]) -> list[str]:
    """Return which files that must parse (config, tokenizer) a child lacks, a sentence each."""
    return [
        f"lacks {path} of its parent"
        for path in sorted(before)
        if path not in after and path.rpartition("/")[2] in _JSON_NAMES
    ]


def _numbers(config: Mapping[str, Any]) -> dict[str, int]:
    return {name: value for name in ("vocab_size", *_WIDTHS) if type(value := config.get(name)) is int and value >= 0}


def _declared(numbers: Mapping[str, int], shape: tuple[int, ...]) -> list[tuple[str, int, int]]:
    """Return (name, declared, found) of what a config says of the two lengths of its embedding."""
    width = next((name for name in _WIDTHS if name in numbers), None)
    rows = [("vocab_size", numbers["vocab_size"], shape[0])] if "vocab_size" in numbers else []
    return rows + ([(width, numbers[width], shape[1])] if width else [])


def _below(path: str) -> str:
    directory = path.rpartition("/")[0]
    return f"{directory}/" if directory else ""


def _words(tensor: Described) -> str:
    return f"{shown(tensor[0])} {quoted(list(tensor[1]))}"


def _count(names: list[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _some(names: list[str], below: str = "") -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{shown(names[0].removeprefix(below))}{more}"
