"""A seeded bf16 model of any size: a decoder's tensor shapes, normal weights, written in bounded memory."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYERS = 16
_VOCABULARY = 32_000
_SIGMA = 0.02
_VALUES_AT_ONCE = 4 << 20


def shapes(width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (name, shape) of every tensor of a decoder: width 1,536 gives 1.0 GB in bf16, 3,136 gives 4.0 GB."""
    inner = width * 8 // 3
    yield "model.embed_tokens.weight", (_VOCABULARY, width)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (width,)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}self_attn.{name}.weight", (width, width)
        yield prefix + "post_attention_layernorm.weight", (width,)
        yield prefix + "mlp.gate_proj.weight", (inner, width)
        yield prefix + "mlp.up_proj.weight", (inner, width)
        yield prefix + "mlp.down_proj.weight", (width, inner)
    yield "model.norm.weight", (width,)


def write_model(folder: Path, *, width: int, seed: int, changed_layers: tuple[int, ...] = ()) -> int:
    """Write model.safetensors, config.json and tokenizer.json below ``folder`` and return the bytes of the weights.

    Args:
        folder: made if it is missing; a model that is there whole is kept.
        width: see ``shapes``.
        seed: of every weight.
        changed_layers: layers that get other weights than the seed alone gives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed, end = {}, 0
    for name, shape in shapes(width):
        size = 2 * int(np.prod(shape))
        listed[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(listed).encode()
    header += b" " * (-len(header) % 8)
    path = folder / "model.safetensors"
    total = 8 + len(header) + end
    if path.exists() and path.stat().st_size == total:
        return total
    half = path.with_suffix(".half")
    with half.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for number, (name, shape) in enumerate(shapes(width)):
            layer = int(name.split(".")[2]) if ".layers." in name else -1
            random = np.random.default_rng([seed, number, 1 if layer in changed_layers else 0])
            left = int(np.prod(shape))
            while left:
                count = min(left, _VALUES_AT_ONCE)
                values = random.standard_normal(count, dtype=np.float32) * np.float32(_SIGMA)
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
                left -= count
    (folder / "config.json").write_text(json.dumps({"hidden_size": width, "num_hidden_layers": LAYERS}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {f"t{n}": n for n in range(_VOCABULARY)}}}))
    half.rename(path)
    return total
