from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from sandbox.vendors_page import abilities, page
from understudy.opening import VENDORS

ROOT = Path(__file__).parents[2]


def test_the_page_of_vendors_is_fresh():
    assert page() == (ROOT / "docs" / "vendors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: f"{vendor.noun}-{vendor.scheme}")
def test_every_adapter_says_of_itself_all_that_its_noun_asks(vendor):
    asked = import_module(f"understudy.{vendor.noun}.interface").ABILITIES
    assert list(asked) == list(abilities(vendor))
    assert all(words.strip() for words in abilities(vendor).values())
