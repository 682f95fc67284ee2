"""Whether a version at the source is a whole model yet, or an upload that still goes on. No I/O here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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


def is_checked_json(path: str, size: int) -> bool:
    """Return whether this file is read before the others and must parse as JSON."""
    name = path.rpartition("/")[2]
    return size <= JSON_BYTES_MAX and (name in _JSON_NAMES or name.endswith(_SHARDS_SUFFIX))


def complaint_about_json(path: str, data: bytes, paths: Collection[str]) -> str | None:
    """Return why a JSON file shows that the model is not whole, None when it does not.

    Args:
        path: of the file in the model.
        data: its bytes.
        paths: of all files of the model; a shard that the file names and that is not there is missing.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return f"{path} is not complete JSON"
    if not path.endswith(_SHARDS_SUFFIX):
        return None
    weights = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weights, dict):
        return f"{path} has no weight_map"
    directory = path.rpartition("/")[0]
    below = f"{directory}/" if directory else ""
    missing = sorted({str(shard) for shard in weights.values() if f"{below}{shard}" not in paths})
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"{path} names {missing[0]}{more}, not there yet"
    return None


def complaint_about_files(sizes: Mapping[str, int]) -> str | None:
    """Return why the files (path to bytes) cannot be a whole model, None when they can."""
    if "config.json" in sizes and not any(path.endswith(_WEIGHTS) for path in sizes):
        return "config.json is there, no weights are yet"
    empty = sorted(path for path, size in sizes.items() if size == 0 and path.endswith(_WEIGHTS))
    if empty:
        return f"{empty[0]} is empty"
    return None
