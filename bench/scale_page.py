"""docs/scale.md, made from what was measured (docs/scale.json): no figure in it is written by hand."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import TYPE_CHECKING, Any

from understudy.vault.index import _GROWTH, LIVE_SEQUENCES_MAX
from understudy.vault.packs import PACK_BYTES_TARGET

if TYPE_CHECKING:
    from collections.abc import Sequence

_GB, _CHUNK, _PAGE_ROWS = 1e9, 4 << 20, 1000
_LINKS = (1, 5)
_HEAD = """# What scale costs

Made by `python -m bench.scale --page` from docs/scale.json; `tests/house/test_scale_page.py` holds it to that. The
figures were measured by `python -m bench.scale --record` (the runs) and `python -m bench.scale --units` (the unit
costs), on a machine of {cores} cores; CPU is beyond that of `understudy --version`. The models are synthetic: bf16 with
normal weights, and a fine-tune that nudges each of them by {nudge} % of sigma. Of your own, `understudy artifacts push
--json` tells bytes read and sent. Where a figure is calculated from others, the column says how.
"""


@dataclass(frozen=True)
class Registry:
    """A registry that somebody may have.

    Attributes:
        title: in the page.
        models: how many.
        versions: of each model.
        gb: plain, of one version.
        files: of one version.
    """

    title: str
    models: int
    versions: int
    gb: float
    files: int


REGISTRIES = (
    Registry("10 TB: one model of 20 GB in 500 versions, each a fine-tune of the one before", 1, 500, 20.0, 14),
    Registry("10 TB: 50,000 models of 200 MB, one version each", 50_000, 1, 0.2, 10),
)


def page(kept: dict[str, Any]) -> str:
    """Return the page."""
    units = kept["units"]
    lines = [_HEAD.format(cores=units["cores"], nudge=units["weights"]["nudge_percent"])]
    lines += _units(units)
    for registry in REGISTRIES:
        lines += _registry(registry, units)
    lines += _limits(units)
    lines += _runs(kept["runs"]) if "runs" in kept else []
    return "\n".join(lines).rstrip() + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)] + [""]


def _units(units: dict[str, Any]) -> list[str]:
    weights, small = units["weights"], units["small_files"]
    rows = []
    for name in ("first push", "next version", "the same under another name", "restore", "vault verify --deep"):
        found = weights[name]
        sent = f"{found['sent_percent']:.1f} %" if "sent_percent" in found else ""
        rows.append([name, f"{found['cpu_seconds_per_gb']:.2f}", sent, f"{found['memory_mb']:.0f} MB"])
    lines = ["## Measured", "", f"A model of {weights['gigabytes']:.2f} GB in one file:", ""]
    lines += _table(["step", "CPU-s per GB", "sent", "peak memory"], rows)
    count = small["files"]
    rows = [
        [name, f"{found['cpu_microseconds_per_file']:.0f}", f"{found['memory_mb']:.0f} MB"]
        for name, found in small.items()
        if name != "files"
    ]
    lines += [f"One version of {count:,} files of some 300 bytes:", ""]
    lines += _table(["step", "CPU-us per file", "peak memory"], rows)
    index, manifest = units["index"], units["manifest"]
    rows = [
        ["index, per chunk", f"{index['bytes_per_chunk']:.0f} bytes", f"{index['memory_bytes_per_chunk']:.0f} bytes"],
        ["manifest, per chunk", f"{manifest['bytes_per_chunk']:.0f} bytes", ""],
        ["manifest, per file", f"{manifest['bytes_per_file']:.0f} bytes", ""],
    ]
    lines += ["What describes them:", "", *_table(["", "in the vault", "in memory of a push"], rows)]
    rows = []
    for name in units["requests"]["listed"]:
        listed, asked = (_calls(units["requests"][how][name]) for how in ("listed", "asked"))
        rows.append([name, listed, asked])
    rows += [
        [f"a GB of weights, {name}", f"{count:.0f} source GET", ""] for name, count in units["gets_per_gb"].items()
    ]
    heads = ["requests of", "where listings have versions (GCS)", "where they must be asked for them (S3)"]
    lines += [*_table(heads, rows)]
    return lines


def _calls(found: dict[str, float]) -> str:
    return ", ".join(f"{count:g} {name}" for name, count in found.items() if count) or "none"


def _registry(registry: Registry, units: dict[str, Any]) -> list[str]:
    weights = units["weights"]
    first, following = (weights[name] for name in ("first push", "next version"))
    total = registry.models * registry.versions
    fine_tunes = registry.models * (registry.versions - 1)
    gb = total * registry.gb
    sent_first, sent_next = (registry.gb * step["sent_percent"] / 100 for step in (first, following))
    stored = registry.models * sent_first + fine_tunes * sent_next
    packs = registry.models * _packs(sent_first) + fine_tunes * _packs(sent_next)
    chunks_each = ceil(registry.gb * _GB / _CHUNK) + registry.files
    chunks = total * chunks_each
    manifest = registry.files * units["manifest"]["bytes_per_file"] + chunks_each * units["manifest"]["bytes_per_chunk"]
    cpu = registry.gb * (registry.models * first["cpu_seconds_per_gb"] + fine_tunes * following["cpu_seconds_per_gb"])
    gets = registry.gb * (
        registry.models * units["gets_per_gb"]["first version"] + fine_tunes * units["gets_per_gb"]["fine-tune"]
    )
    files = total * registry.files
    rewritten = 1 + ceil(log(max(2, total / LIVE_SEQUENCES_MAX), _GROWTH))
    index = chunks * units["index"]["bytes_per_chunk"]
    newest = following if registry.versions > 1 else first
    each = sent_next if registry.versions > 1 else sent_first
    unchanged = files * units["small_files"]["push, nothing new"]["cpu_microseconds_per_file"] / 1e6
    rows = [
        ["plain bytes", _size(gb), "as said"],
        ["stored in packs", _size(stored), "first push and next version, of the table above"],
        [
            "objects",
            f"{packs + 2 * total:,}",
            f"packs of {PACK_BYTES_TARGET >> 20} MiB, a manifest and an index object a version",
        ],
        [
            "of these, after prune",
            f"{packs + total + LIVE_SEQUENCES_MAX:,}",
            "index objects that were merged are deleted",
        ],
        ["PUT, all of it", f"{packs + 2 * total:,}", "one an object"],
        ["GET at the source, all of it", f"{gets + files:,.0f}", "per GB, and one a file"],
        ["manifests", f"{_size(total * manifest / _GB)}", f"{_size(manifest / _GB)} each: per file and per chunk"],
        ["index", _size(index / _GB), f"{chunks:,} chunks"],
        [
            "index written, all of it",
            f"at most {_size(rewritten * index / _GB)}",
            f"a row is merged some {rewritten - 1} times",
        ],
        ["index in memory of a push", _size(chunks * units["index"]["memory_bytes_per_chunk"] / _GB), "per chunk"],
        ["CPU, all of it", f"{cpu / 3600:.1f} core-hours", "per GB"],
        *(
            [
                f"time on {link} Gbit/s, all of it",
                _hours(max(stored * 8 / link, cpu / units["cores"])),
                f"the longer of sending, and coding on {units['cores']} cores",
            ]
            for link in _LINKS
        ),
        [
            "one more version",
            f"{_size(each)} sent, {_cpu(registry.gb * newest['cpu_seconds_per_gb'])}",
            "the newest version's step",
        ],
        [
            "a night without changes",
            f"{ceil(files / _PAGE_ROWS) + ceil(total / _PAGE_ROWS):,} LIST, {total:,} GET, {unchanged:.1f} CPU-s",
            "listings by 1000; a manifest a version; per file",
        ],
        ["the same in bytes read", _size(total * manifest / _GB), "all manifests of what the source lists"],
        [
            "vault verify --deep",
            f"{gb * weights['vault verify --deep']['cpu_seconds_per_gb'] / 3600:.1f} core-hours, {packs:,} GET",
            "per GB of plain bytes",
        ],
        [
            "restore of one version",
            _cpu(registry.gb * weights["restore"]["cpu_seconds_per_gb"]),
            "per GB",
        ],
    ]
    return [f"## {registry.title}", "", *_table(["", "costs", "from"], rows)]


def _packs(gb: float) -> int:
    return max(1, ceil(gb * _GB / PACK_BYTES_TARGET))


def _size(gb: float) -> str:
    if gb >= 1000:
        return f"{gb / 1000:.2f} TB"
    return f"{gb:.1f} GB" if gb >= 1 else f"{gb * 1000:.1f} MB" if gb >= 0.001 else f"{gb * 1e6:.0f} kB"


def _cpu(seconds: float) -> str:
    return f"{seconds / 60:.1f} CPU-min" if seconds >= 60 else f"{seconds:.1f} CPU-s"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _limits(units: dict[str, Any]) -> list[str]:
    from understudy.vault.documents import DOCUMENT_BYTES_MAX

    manifest, index = units["manifest"], units["index"]
    files = int(DOCUMENT_BYTES_MAX / (manifest["bytes_per_file"] + manifest["bytes_per_chunk"]))
    terabytes = DOCUMENT_BYTES_MAX / manifest["bytes_per_chunk"] * _CHUNK / _GB / 1000
    chunks = (1 << 30) / index["memory_bytes_per_chunk"]
    return [
        "## Where it ends",
        "",
        *_table(
            ["limit", "is reached at", "then"],
            [
                [
                    "a manifest of 64 MiB",
                    f"some {files:,} small files in one version, or {terabytes:.1f} TB of weights",
                    "the version is held with a sentence, before any of it is read; the others go on",
                ],
                [
                    "the index in 1 GiB of memory",
                    f"some {chunks / 1e6:.0f} million chunks, {chunks * _CHUNK / _GB / 1000:.0f} TB of changed weights",
                    "more memory, or several vaults",
                ],
            ],
        ),
    ]


def _runs(runs: dict[str, Any]) -> list[str]:
    rows = [
        [
            row["at"],
            row["what"],
            f"{row['wall']:.1f}",
            f"{row['cpu']:.1f}",
            f"{row['grown']:.2f}x",
            f"{row['memory_mb']}",
        ]
        for row in runs["rows"]
    ]
    return [
        f"## Runs: {runs['files']:,} files",
        "",
        "CPU a file beside the first row of the same command is what shows that it grows in line: near 1x or below.",
        "The walls are of folders on one disk, shared with other work.",
        "",
        *_table(["vault", "command", "wall s", "CPU-s", "CPU a file", "MB"], rows),
    ]
