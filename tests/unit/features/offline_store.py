"""Small offline stores for tests: histories and logs, put into any object store."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from understudy.features.interface import Cell, micros
from understudy.features.log import encode_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.objects.interface import ObjectStore

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
STAMP = pa.timestamp("us", tz="UTC")


def at(seconds: float) -> datetime:
    """Return a moment so many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def at_us(seconds: float) -> int:
    """Return it in microseconds since 1970."""
    return micros(at(seconds))


def encode_history(rows: Sequence[tuple[str, float, float, dict[str, Any]]], types: dict[str, pa.DataType]) -> bytes:
    """Return a wide file of rows (entity, event and created seconds after noon, features)."""
    columns: dict[str, pa.Array] = {
        "entity": pa.array([row[0] for row in rows], pa.string()),
        "event_timestamp": pa.array([at(row[1]) for row in rows], STAMP),
        "created_timestamp": pa.array([at(row[2]) for row in rows], STAMP),
    }
    for name, kind in types.items():
        columns[name] = pa.array([row[3].get(name) for row in rows], kind)
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def put_history(store: ObjectStore, entities: int, *, name: str = "day1", offset: float = 0.0) -> None:
    """Put a history of four features an entity."""
    rows = [
        (
            f"user:{number:05d}",
            offset + number % 7,
            offset + number % 7,
            {"clicks": number, "rate": number / 7, "city": f"Zürich {number % 5}", "member": number % 2 == 0},
        )
        for number in range(entities)
    ]
    types = {"clicks": pa.int64(), "rate": pa.float64(), "city": pa.string(), "member": pa.bool_()}
    store.put(f"history/{name}.parquet", encode_history(rows, types))


def put_log(store: ObjectStore, number: int, cells: Sequence[Cell], *, writer: str = "w1") -> None:
    """Put one object of a writer's log."""
    store.put(f"log/{writer}/{number:08d}.parquet", encode_log(cells))


def logged(entity: str, feature: str, value: str | None, event: float, created: float | None = None) -> Cell:
    """Return a cell with its times in seconds after noon."""
    return Cell(entity, feature, value, at_us(event), at_us(event if created is None else created))
