"""The report as a page: the same blocks in Markdown and in one self-contained HTML file, escaped in one place each."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from understudy.report import human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.failover.report import FailoverReport, Line

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; width: 100%; }
th, td { text-align: left; padding: 0.3rem 0.8rem 0.3rem 0; border-bottom: 1px solid #8886; vertical-align: top; }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.bad { color: #c62828; font-weight: 600; }
""".strip()
_BAD = ("MISSED", "not achieved", "UNPROTECTED")
_MARKDOWN = re.compile(r"([\\`*\[\]|~#])")


@dataclass(frozen=True, slots=True)
class _Block:
    """A heading, a paragraph, a list or a table; text is plain, never markup."""

    kind: str
    text: str = ""
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def to_markdown(report: FailoverReport) -> str:
    """Return the report as Markdown; what people wrote stays text."""
    lines: list[str] = []
    for block in _blocks(report):
        if block.kind in ("title", "heading"):
            lines += ["#" * (1 if block.kind == "title" else 2) + f" {_plain(block.text)}", ""]
        elif block.kind == "list":
            lines += [*(f"- {_plain(row[0])}" for row in block.rows), ""]
        elif block.kind == "table":
            lines.append(f"| {' | '.join(block.heads)} |")
            lines.append(f"|{'---|' * len(block.heads)}")
            lines += [f"| {' | '.join(map(_plain, row))} |" for row in block.rows]
            lines.append("")
        elif block.kind == "command":
            lines += [f"next: `{block.text}`", ""]
        else:
            lines += [_plain(block.text), ""]
    return "\n".join(lines)


def to_html(report: FailoverReport) -> str:
    """Return the report as one HTML file that loads nothing and runs nothing."""
    body: list[str] = []
    for block in _blocks(report):
        text = html.escape(block.text)
        if block.kind in ("title", "heading"):
            level = 1 if block.kind == "title" else 2
            body.append(f"<h{level}>{text}</h{level}>")
        elif block.kind == "list":
            body.append(
                "<ul>" + "".join(f"<li{_class(row[0])}>{html.escape(row[0])}</li>" for row in block.rows) + "</ul>"
            )
        elif block.kind == "table":
            head = "".join(f"<th>{html.escape(each)}</th>" for each in block.heads)
            rows = "".join(
                "<tr>" + "".join(f"<td{_class(cell)}>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                for row in block.rows
            )
            body.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
        elif block.kind == "command":
            body.append(f"<p>next: <code>{text}</code></p>")
        else:
            body.append(f"<p{_class(block.text)}>{text}</p>")
    title = html.escape(f"Failover of {report.service} at epoch {report.epoch}")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{title}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _blocks(report: FailoverReport) -> Iterator[_Block]:
    yield _Block("title", f"Failover of {report.service} at epoch {report.epoch}: {report.verdict}")
    yield _Block(
        "text", f"{report.sentence[0].upper()}{report.sentence[1:]}. Plan {report.plan}, begun by {report.who}."
    )
    if report.remains:
        yield _rows("list", report.remains)
    if report.problems:
        yield _Block("heading", "What could not be read")
        yield _rows("list", report.problems)
    yield _Block("heading", "Targets")
    yield _targets(report)
    if report.counted_from:
        yield _Block("text", f"Recovery is counted from {_clock(report.counted_from)}, {report.counted_why}.")
    yield _Block("heading", "What was lost")
    yield _rows("list", tuple(_lost(report)))
    yield _Block("heading", "Why the old writers cannot write")
    yield _rows("list", report.fence)
    yield _Block("heading", "Risks that were accepted")
    yield _rows("list", report.acceptances or ("none",))
    yield _Block("heading", "Incidents")
    yield _timeline(report.incidents) if report.incidents else _rows("list", ("none",))
    yield _Block("heading", "Steps")
    yield _Block(
        "table",
        heads=("stage", "step", "predicted", "achieved"),
        rows=tuple(
            (step.stage, step.sentence, human_seconds(step.predicted_seconds), _seconds(step.achieved_seconds))
            for step in report.steps
        ),
    )
    yield _Block("heading", "Timeline")
    yield _timeline(report.timeline)
    if not all(line.sure for line in report.timeline):
        yield _Block("text", "Times with a ~ are of the machine that wrote them, all others of the register's clock.")
    if report.next_command:
        yield _Block("command", report.next_command)


def _targets(report: FailoverReport) -> _Block:
    rows = []
    for line in report.targets:
        recovery = f"{human_seconds(line.rto_seconds)}, {_seconds(line.recovered_seconds)}"
        if line.rpo_seconds is None:
            loss = "none"
        else:
            loss = f"{human_seconds(line.rpo_seconds)}, {_seconds(line.lost_seconds)}"
        verdicts = (line.rto_verdict, line.rpo_verdict)
        worst = next(each for each in ("MISSED", "not achieved", "not judged", "met", "none") if each in verdicts)
        rows.append((line.component, recovery, loss, worst))
    return _Block(
        "table", heads=("component", "RTO target, achieved", "RPO target, lost at most", "verdict"), rows=tuple(rows)
    )


def _lost(report: FailoverReport) -> Iterator[str]:
    if report.verdict == "aborted":
        yield "nothing: the old site stayed active"
        return
    for line in report.targets:
        if line.rpo_seconds is None:
            continue
        lost = _seconds(line.lost_seconds)
        if not (line.watermark and line.last_write):
            yield f"{line.component}: {lost} at most"
            continue
        since, until = _clock(line.watermark), _clock(line.last_write)
        if line.lost_seconds:
            yield f"{line.component}: what was written after {since} and before {until}, at most {lost}"
        else:
            yield f"{line.component}: nothing; all up to {since} is there, and no write was accepted after {until}"


def _timeline(lines: tuple[Line, ...]) -> _Block:
    rows = tuple((f"{'' if line.sure else '~'}{_clock(line.at)}", line.who, line.what) for line in lines)
    return _Block("table", heads=("time", "who", "what"), rows=rows)


def _rows(kind: str, texts: tuple[str, ...]) -> _Block:
    return _Block(kind, rows=tuple((text,) for text in texts))


def _clock(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}Z"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else human_seconds(seconds)


def _plain(text: str) -> str:
    """Escape what Markdown, and the HTML in it, would read as markup; keep it on one line."""
    line = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
    return _MARKDOWN.sub(r"\\\1", line)


def _class(text: str) -> str:
    return ' class="bad"' if any(bad in text for bad in _BAD) else ""
