"""Seeded models and their fine-tunes: a decoder in bf16 of any size, and MiniLM nudged; made in bounded memory.

The weights are normal, and so is what a fine-tune adds to them, so that what any coder can reach is known beforehand
(figures are of the whole model of 1 GB, by the entropy of single words):

========================  ====================================================================================
``base``                  the first version, sigma 0.02
``two-layers``            layers 3 and 11 of 16 nudged by 1.5 % of sigma, 10 % of the model. Fresh weights in them
                          would cost two thirds of their bytes, 6.7 % of the model, whatever the coder: "changed" can
                          only mean changed a little
``lora``                  an adapter of rank 16 merged into q and v of all layers (15 % of the model), as
                          round(W + s B A); what it adds is 1.5 % of sigma (root mean square)
``nudge-<p>``             every weight nudged by p % of sigma
``minilm``                all-MiniLM-L6-v2 in fp32, real weights (the installed package's)
``minilm-nudge-0.5``      each of its tensors nudged by 0.5 % of that tensor's deviation
========================  ====================================================================================

A real fine-tune moves some tensors by much more than others, leaves rows alone, and changes fewer words than a nudge of
the same size: see ``bench.finetune``, and beside each other in ``python -m bench.coders``.
"""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

LAYERS = 16
#: Gigabytes of the model to its width.
WIDTHS = {1: 1536, 2: 2208, 4: 3136, 8: 4480}
#: Each version that can be made, to the one that it was trained from; "" for those that were trained from nothing.
VARIANTS = {
    "base": "",
    "two-layers": "base",
    "lora": "base",
    "nudge-1.5": "base",
    "nudge-0.6": "base",
    "nudge-0.3": "base",
    "minilm": "",
    "minilm-nudge-0.5": "minilm",
}
SEED = 20
SIGMA = 0.02
RANK = 16
ADAPTER_PERCENT = 1.5
_TWO_LAYERS = (3, 11)
_VOCABULARY = 32_000
_VALUES_AT_ONCE = 4 << 20


@dataclass(frozen=True, slots=True)
class Change:
    """What a version adds to the first one.

    Attributes:
        percent: of sigma by which weights are nudged; 0 for none.
        layers: the layers that are nudged; None for all, and all that is in no layer.
        adapters: whether a merged adapter is added to q and v of every layer.
    """

    percent: float = 0.0
    layers: tuple[int, ...] | None = None
    adapters: bool = False

    def nudges(self, layer: int) -> bool:
        """Tell whether the tensors of a layer (-1: of none) are nudged."""
        return self.percent > 0 and (self.layers is None or layer in self.layers)


_CHANGES = {
    "base": Change(),
    "two-layers": Change(1.5, _TWO_LAYERS),
    "lora": Change(adapters=True),
    "nudge-1.5": Change(1.5),
    "nudge-0.6": Change(0.6),
    "nudge-0.3": Change(0.3),
}


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


def write_variant(folder: Path, name: str, *, gb: int = 1) -> int:
    """Write one of ``VARIANTS`` below ``folder`` and return the bytes of its weights.

    Args:
        folder: made if it is missing; a version that is there whole is kept.
        name: of the version.
        gb: size of the synthetic ones, one of ``WIDTHS``.

    Raises KeyError for a name that is none, FileNotFoundError where the package of MiniLM is not installed.
    """
    if name.startswith("minilm"):
        return _write_minilm(folder, percent=float(name.rpartition("-")[2]) if VARIANTS[name] else 0.0)
    return write_model(folder, width=WIDTHS[gb], seed=SEED, change=_CHANGES[name])


def write_model(folder: Path, *, width: int, seed: int, change: Change | None = None) -> int:
    """Write model.safetensors, config.json and tokenizer.json below ``folder`` and return the bytes of the weights.

    Args:
        folder: made if it is missing; a model that is there whole is kept.
        width: see ``shapes``.
        seed: of every weight.
        change: what is added to the weights that the seed gives.
    """
    listed, end = {}, 0
    for name, shape in shapes(width):
        size = 2 * int(np.prod(shape))
        listed[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(listed).encode()
    header += b" " * (-len(header) % 8)
    beside = {
        "config.json": {"hidden_size": width, "num_hidden_layers": LAYERS},
        "tokenizer.json": {"model": {"vocab": {f"t{n}": n for n in range(_VOCABULARY)}}},
    }

    def parts() -> Iterator[bytes]:
        yield struct.pack("<Q", len(header)) + header
        for number, (name, shape) in enumerate(shapes(width)):
            for values in tensor_values(number, name, shape, seed=seed, change=change or Change()):
                yield to_bf16(values).tobytes()

    encoded = {name: json.dumps(content).encode() for name, content in beside.items()}
    return _write(folder, 8 + len(header) + end, parts, encoded)


def tensor_values(
    number: int, name: str, shape: tuple[int, ...], *, seed: int, change: Change
) -> Iterator[NDArray[np.float32]]:
    """Yield the values of one tensor in order, some millions at once, before they are rounded to bf16."""
    layer = int(name.split(".")[2]) if ".layers." in name else -1
    first, second = (np.random.default_rng([seed, number, stream]) for stream in (0, 1))
    rows, columns = (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])
    adapted = change.adapters and ("q_proj" in name or "v_proj" in name)
    left = second.standard_normal((rows, RANK), dtype=np.float32) if adapted else None
    right = second.standard_normal((RANK, columns), dtype=np.float32) if adapted else None
    height = max(1, _VALUES_AT_ONCE // columns)
    for start in range(0, rows, height):
        count = min(height, rows - start)
        values = first.standard_normal((count, columns), dtype=np.float32) * np.float32(SIGMA)
        if change.nudges(layer) or adapted:
            values = from_bf16(to_bf16(values))  # what was handed out is what is trained on
        if change.nudges(layer):
            values += second.standard_normal(values.shape, dtype=np.float32) * np.float32(SIGMA * change.percent / 100)
        if left is not None and right is not None:
            scale = SIGMA * ADAPTER_PERCENT / 100 / RANK**0.5
            values += (left[start : start + count] @ right) * np.float32(scale)
        yield values


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return float32 rounded to the nearest bf16, ties to even, as words. For finite values."""
    bits = values.view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def from_bf16(words: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 values of bf16 words."""
    return (words.astype(np.uint32) << 16).view(np.float32)


def _write_minilm(folder: Path, *, percent: float) -> int:
    from sandbox.model import CONFIG, TOKENIZER, WEIGHTS, packaged_files

    files = packaged_files()
    source = files[WEIGHTS]

    def parts() -> Iterator[bytes]:
        with source.open("rb") as file:
            length = file.read(8)
            header = file.read(struct.unpack("<Q", length)[0])
            yield length + header
            listed = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
            for number, entry in enumerate(sorted(listed.values(), key=lambda entry: entry["data_offsets"])):
                start, end = entry["data_offsets"]
                data = file.read(end - start)
                if entry["dtype"] == "F32" and percent:
                    values = np.frombuffer(data, dtype="<f4")
                    random = np.random.default_rng([SEED, number])
                    nudge = random.standard_normal(values.size, dtype=np.float32)
                    data = (values + nudge * np.float32(values.std() * percent / 100)).astype("<f4").tobytes()
                yield data

    beside = {name: files[name].read_bytes() for name in (CONFIG, TOKENIZER)}
    return _write(folder, source.stat().st_size, parts, beside)


def _write(folder: Path, total: int, parts: Callable[[], Iterator[bytes]], beside: dict[str, bytes]) -> int:
    """Write the weights, last of all, and what lies beside them; what is there whole is kept. Return ``total``."""
    path = folder / "model.safetensors"
    if path.exists() and path.stat().st_size == total:
        return total
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    half = path.with_suffix(".half")
    with half.open("wb") as file:
        for part in parts():
            file.write(part)
    for name, data in beside.items():
        (folder / name).write_bytes(data)
    half.rename(path)
    return total
