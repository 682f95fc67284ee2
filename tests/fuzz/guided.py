"""Runs one target under atheris, from a corpus of one valid example, with the product's code instrumented."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris


def run(target: str) -> None:
    """Fuzz until libFuzzer's own limits (``-max_total_time``, ``-runs``) end it; a finding ends it."""
    with atheris.instrument_imports(include=["understudy"]):
        from tests.fuzz.targets import TARGETS, example

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        (corpus / "valid").write_bytes(example(target))
        test = TARGETS[target]
        # A finding is written there, and named in the output.
        findings = f"-artifact_prefix={os.environ.get('FUZZ_FINDINGS', tempfile.gettempdir())}/{target}-"
        atheris.Setup(
            [sys.argv[0], findings, "-rss_limit_mb=2048", *sys.argv[1:], str(corpus)], lambda data: test(data) and None
        )
        atheris.Fuzz()
