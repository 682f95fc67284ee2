"""``artifacts pull --tensors`` and ``--layers``: what a person types, and what they read."""

from __future__ import annotations

import json

import pytest
from safetensors.numpy import load_file

from tests.models import layers
from tests.unit.command.test_contents import understudy, world

__all__ = ["understudy", "world"]


@pytest.fixture
def pushed(world, understudy):
    """The world after a push; a command line that pulls into its folder ``here``."""
    assert 0 == understudy("artifacts", "push")[0]
    return lambda *words: understudy(*words, "--to", str(world / "here"))


def test_tensors_are_pulled_by_their_names_into_one_file(world, pushed):
    code, out, _ = pushed("artifacts", "pull", "m", "2", "--tensors", "layer.1", "--tensors", "*.3")
    found = load_file(world / "here" / "m" / "2.subset.safetensors")
    expected = {name: array for name, array in layers(changed=1).items() if name in ("layer.1", "layer.3")}
    assert (0, expected.keys()) == (code, found.keys())
    assert all((expected[name] == found[name]).all() for name in expected)
    assert "m 2: 2 of 4 tensors, 131 kB written to" in out
    assert "read from the vault" in out


def test_the_first_layers_are_pulled_and_told_as_json(world, pushed):
    code, out, _ = pushed("--json", "artifacts", "pull", "m", "--layers", "3")
    (report,) = json.loads(out)
    assert (0, 3, 4, "2") == (code, report["items_new"], report["items_total"], report["version"])
    assert str(world / "here" / "m" / "2.subset.safetensors") == report["details"]["file"]
    assert 0 < report["bytes_read"] < report["bytes_total"]


def test_a_tensor_that_is_not_there_is_one_sentence_and_exit_code_5(pushed):
    code, _, error = pushed("artifacts", "pull", "m", "--tensors", "nothing.*")
    assert (5, 1) == (code, len(error.splitlines()))
    assert "m 2 has no such tensor. It has layer.0, layer.1, layer.2 and 1 more" in error


def test_a_number_of_layers_that_is_none_is_a_usage_error(pushed):
    for words in ("-1", "two"):
        code, _, error = pushed("artifacts", "pull", "m", "--layers", words)
        assert (2, True) == (code, "--layers" in error)
