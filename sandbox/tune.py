"""A fine-tuned version of the model: one layer's tensors nudged, every other byte as it was."""

from __future__ import annotations

import json
import struct

import numpy as np

from sandbox.model import WEIGHTS

LAYER = "encoder.layer.5."
_SCALE = 0.01


def fine_tune(weights: bytes, *, layer: str = LAYER, seed: int = 2) -> bytes:
    """Return a safetensors file in which the float32 tensors of one layer differ by about 1 %.

    Header and all other tensors are equal byte for byte, as after a run that froze the rest. The same seed gives the
    same bytes.

    Args:
        weights: a safetensors file.
        layer: how the names of the tensors that change begin.
        seed: of the change.

    Raises ValueError when it is no safetensors file, or holds no float32 tensor of that layer.
    """
    try:
        (size,) = struct.unpack_from("<Q", weights)
        header = json.loads(weights[8 : 8 + size])
    except (struct.error, ValueError) as error:
        message = f"{WEIGHTS} is not a safetensors file"
        raise ValueError(message) from error
    random = np.random.default_rng(seed)
    tuned = bytearray(weights)
    changed = 0
    for name in sorted(header):
        if not name.startswith(layer) or header[name]["dtype"] != "F32":
            continue
        start, end = (8 + size + offset for offset in header[name]["data_offsets"])
        tensor = np.frombuffer(weights, dtype="<f4", count=(end - start) // 4, offset=start)
        nudge = random.standard_normal(tensor.size, dtype=np.float32) * np.float32(_SCALE * float(tensor.std()))
        tuned[start:end] = (tensor + nudge).astype("<f4").tobytes()
        changed += 1
    if not changed:
        message = f"{WEIGHTS} has no float32 tensor whose name begins with {layer}"
        raise ValueError(message)
    return bytes(tuned)
