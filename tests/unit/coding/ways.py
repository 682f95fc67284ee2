"""The ways of the transforms that tests try: numpy, and the native part with all registers, with fewer, with none."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING

import pytest

from understudy.coding.native import WAYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.coding.native import Way

#: By name, the bits of the widest registers; None for numpy.
REGISTERS = {"numpy": None, "native": 512, "native-256": 256, "native-0": 0}
NAMES = list(REGISTERS)


@contextlib.contextmanager
def taken(name: str) -> Iterator[Way]:
    """Give the way of a name, as long as the context lasts; skip the test where there is none."""
    bits = REGISTERS[name]
    if bits is None:
        yield WAYS["numpy"]
        return
    if "native" not in WAYS:
        pytest.skip("the native part is not installed: make setup builds it where there is cargo")
    module = importlib.import_module("understudy_native")
    before = module.narrow(bits)
    try:
        yield WAYS["native"]
    finally:
        module.narrow(before)
