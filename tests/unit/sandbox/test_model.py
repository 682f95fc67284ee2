"""The sandbox's real model, corpus and fine-tuned version."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load

from sandbox import corpus, model, tune

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {path: file.read_bytes() for path, file in model.packaged_files().items()}


@pytest.fixture(scope="module")
def minilm(files: dict[str, bytes]) -> model.SentenceModel:
    return model.SentenceModel(files)


# The published similarities of this very model (sbert.net's and the Hugging Face model page's examples).
@pytest.mark.parametrize(
    ("similarity", "one", "two"),
    [
        (0.7553, "A man is eating food.", "A man is eating a piece of bread."),
        (0.943, "That is a happy person", "That is a very happy person"),
        (0.695, "That is a happy person", "That is a happy dog"),
        (0.257, "That is a happy person", "Today is a sunny day"),
    ],
)
def test_similarities_are_those_published_for_the_model(
    minilm: model.SentenceModel, similarity: float, one: str, two: str
) -> None:
    assert similarity == pytest.approx(float(minilm.embed(one) @ minilm.embed(two)), abs=5e-4)


def test_the_same_text_gives_the_same_bits_and_length_one(minilm: model.SentenceModel) -> None:
    first = minilm.embed("split a URL into its parts")
    assert first.tobytes() == minilm.embed("split a URL into its parts").tobytes()
    assert 1.0 == pytest.approx(float(np.linalg.norm(first)), abs=1e-6)


def test_many_at_once_in_any_order_are_what_each_is_alone(minilm: model.SentenceModel) -> None:
    texts = ["copy a file", "the median of some numbers", "paste a file", "a", "how do I read rows from a CSV file?"]
    done: list[tuple[int, int]] = []
    together = minilm.embed_all(texts, lambda *counts: done.append(counts), threads=2)
    alone = np.stack([minilm.embed(text) for text in texts])
    assert float(np.abs(together - alone).max()) < 1e-6
    assert (5, 5) == done[-1]


def test_gelu_is_exact_to_the_rounding_of_its_type() -> None:
    x = np.linspace(-9, 9, 50_001, dtype=np.float32)
    exact = np.array([float(v) * 0.5 * (1 + math.erf(float(v) / math.sqrt(2))) for v in x])
    error = np.abs(model.gelu(x.copy().reshape(3, -1)).reshape(-1) - exact)
    assert float((error / np.maximum(1, np.abs(x))).max()) <= float(np.finfo(np.float32).eps)


def test_a_model_of_another_kind_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="describes a gpt2 model"):
        model.SentenceModel({**files, "config.json": b'{"model_type": "gpt2"}'})


@pytest.mark.slow
def test_passages_are_many_short_distinct_and_the_same_again(minilm: model.SentenceModel) -> None:
    first = corpus.passages(minilm.count_tokens)
    assert first == corpus.passages(minilm.count_tokens)
    assert 1500 <= len(first)
    assert len(first) == len({passage.id for passage in first}) == len({passage.body for passage in first})
    lengths = minilm.count_tokens([passage.body for passage in first])
    assert lengths == sorted(lengths)
    assert 64 >= lengths[-1]
    assert "json.dumps" in {passage.id for passage in first}


def test_sources_are_not_run_and_examples_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        '"""Does a thing that nobody wants. It is loud.\n\n>>> shout()\n"""\nraise SystemExit\n'
        'def _private():\n    """Not for anybody to see."""\n'
    )
    found = corpus.passages(lambda texts: [len(text.split()) for text in texts], library=tmp_path)
    assert [
        corpus.Passage("loud", "Does a thing that nobody wants", "Does a thing that nobody wants. It is loud.")
    ] == found


@pytest.mark.slow
def test_a_tuned_model_differs_in_one_layer_alone(files: dict[str, bytes]) -> None:
    old = files[model.WEIGHTS]
    new = tune.fine_tune(old)
    assert new == tune.fine_tune(old)
    assert len(old) == len(new)
    before, after = load(old), load(new)
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == {name for name in before if name.startswith(tune.LAYER)}
    texts = ["copy a file", "read rows from a CSV file", "send an e-mail"]
    apart = model.SentenceModel(files).embed_all(texts) - model.SentenceModel({**files, model.WEIGHTS: new}).embed_all(
        texts
    )
    assert 1e-5 < float(np.abs(apart).max()) < 0.1
    assert all(np.isfinite(tensor).all() for tensor in after.values())
