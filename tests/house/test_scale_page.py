"""docs/scale.md says what was measured, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from bench.scale import MEMORY_MB_MAX
from bench.scale_page import page

ROOT = Path(__file__).parents[2]
KEPT = json.loads((ROOT / "docs" / "scale.json").read_text(encoding="utf-8"))


def test_the_page_is_what_the_measurements_give():
    assert page(KEPT) == (ROOT / "docs" / "scale.md").read_text(encoding="utf-8"), "python -m bench.scale --page"


def test_another_measurement_makes_another_page():
    changed = json.loads(json.dumps(KEPT))
    changed["units"]["weights"]["first push"]["sent_percent"] *= 2
    assert page(KEPT) != page(changed)


def test_every_run_that_is_shown_stayed_below_the_bar_in_memory():
    rows = KEPT["runs"]["rows"]
    assert {"push", "artifacts list", "vault verify", "vault prune"} <= {row["what"] for row in rows}
    assert [] == [row for row in rows if row["memory_mb"] > MEMORY_MB_MAX]
