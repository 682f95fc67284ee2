"""Small models for tests: real safetensors files, seeded."""

from __future__ import annotations

import json
import struct

import numpy as np

_DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8", "int64": "I64", "float64": "F64"}


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the bits of float32 values rounded to bfloat16, to nearest even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def safetensors(tensors: dict[str, np.ndarray], *, metadata: dict[str, str] | None = None) -> bytes:
    """Return a safetensors file; an array of uint16 holds the bits of bfloat16."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _DTYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + tensor.nbytes],
        }
        data += tensor.tobytes()
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def layers(count: int = 4, *, rows: int = 64, seed: int = 1, changed: int | None = None) -> dict[str, np.ndarray]:
    """Return ``count`` seeded layers of rows x 256; ``changed`` gives one layer other weights."""
    return {
        f"layer.{number}": np.random.default_rng([seed, number, number == changed]).standard_normal(
            (rows, 256), dtype=np.float32
        )
        for number in range(count)
    }


def model_files(*, changed: int | None = None, rows: int = 64, count: int = 4) -> dict[str, bytes]:
    """Return the files of one model, path to bytes."""
    vocabulary = {f"token{number}": number for number in range(500)}
    return {
        "config.json": json.dumps({"layers": count}).encode(),
        "model.safetensors": safetensors(layers(count, rows=rows, changed=changed)),
        "tokenizer.json": json.dumps({"model": {"vocab": vocabulary}}).encode(),
        "1_Pooling/config.json": b'{"pooling": "mean"}',
        "README.md": b"",
    }
