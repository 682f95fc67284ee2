"""Features in DynamoDB: tables ``<name>__<generation>`` of (entity, feature) items, billed on demand.

An item has ``entity`` (hash key), ``feature`` (range key), ``value`` (JSON text; absent on a tombstone), ``event_us``
(event time, microseconds) and ``version``, the text that newest-wins compares; the created time stands in it. The table
``<name>`` holds one item, the pointer. https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/
"""

from __future__ import annotations

import json
import random
import re
import time
import zlib
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from botocore.exceptions import BotoCoreError, ChecksumError, ClientError, IncompleteReadError, NoCredentialsError

from understudy.errors import Conflict, Denied, NotFound, Throttled, UnderstudyError, Unreachable, Unsupported
from understudy.features.interface import Cell, Key, Pointer, times_of, version_of
from understudy.objects.attempts import persist
from understudy.report import Progress, quiet
from understudy.threads import ThreadPool
from understudy.vault.lanes import each
from understudy.vault.store import numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Result = TypeVar("Result")

BATCH_WRITE_ITEMS = 25
BATCH_READ_ITEMS = 100
LANES = 8
_SEGMENTS = 4
_POINTER_KEY = {"entity": {"S": "#pointer"}, "feature": {"S": "#pointer"}}
_WAIT_SECONDS_MIN = 0.05
_WAIT_SECONDS_MAX = 5.0
_STALLED_SECONDS_MAX = 60.0
_READY_POLLS = 60

_THROTTLED = {
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "LimitExceededException",
}
_DENIED = {"AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException", "InvalidSignatureException"}
_CLIENT_ERROR = 400
_SERVER_ERROR = 500


class DynamodbStore:
    """An OnlineStore over DynamoDB. Bulk writes go to tables that are not live: BatchWriteItem has no conditions."""

    vendor = "dynamodb"

    ABILITIES: ClassVar[dict[str, str]] = {
        "newest wins": "a conditional PutItem a cell",
        "pointer": "a conditional PutItem",
        "bulk": "BatchWriteItem into a fresh table, billed on demand",
        "limits": "entity 2,048 bytes, feature 1,024 bytes, item 400 KB",
    }

    def __init__(self, name: str, *, client: Any) -> None:  # noqa: ANN401 - boto3 makes this class at run time
        """Use tables whose names start with ``name``."""
        self.name = name
        self._client = client
        client.meta.events.register("before-parse.dynamodb", _check_whole, unique_id="understudy-whole-answers")
        self._tables = re.compile(rf"{re.escape(name)}__(\d{{8}})")

    def generations(self) -> list[int]:
        """Return the numbers of all data tables."""

        def listed() -> list[int]:
            pages = self._client.get_paginator("list_tables").paginate()
            names = [name for page in pages for name in page["TableNames"]]
            return sorted(int(match[1]) for name in names if (match := self._tables.fullmatch(name)))

        return self._call("list the tables", listed)

    def create_generation(self, generation: int) -> None:
        """Make an empty data table and wait until it is active."""
        self._create_table(self._table(generation))

    def drop_generation(self, generation: int) -> None:
        """Remove a data table."""
        try:
            self._call("drop a table", lambda: self._client.delete_table(TableName=self._table(generation)))
        except NotFound:
            return

    def fill(self, generation: int, cells: Iterable[Cell], *, progress: Progress = quiet) -> int:
        """Write cells in batches of 25, eight at a time."""
        table = self._table(generation)
        written = 0
        source = iter(cells)
        batches = iter(lambda: list(islice(source, BATCH_WRITE_ITEMS)), [])
        with ThreadPool(LANES) as pool:
            jobs = (partial(self._write_batch, table, batch) for batch in batches)
            for count in each(pool, jobs, ahead=LANES * 2):
                written += count
                progress(self.name, written, None, "cells")
        return written

    def write_newer(self, generation: int, cells: Sequence[Cell]) -> int:
        """Write each cell with a conditional PutItem."""
        table = self._table(generation)
        if len(cells) == 1:
            return int(self._put_newer(table, cells[0]))
        with ThreadPool(LANES) as pool:
            return sum(each(pool, (partial(self._put_newer, table, cell) for cell in cells), ahead=LANES * 2))

    def scan(self, generation: int) -> Iterator[Cell]:
        """Yield every cell by parallel, strongly consistent segments."""
        table = self._table(generation)
        with ThreadPool(_SEGMENTS) as pool:
            pending: list[tuple[int, dict[str, Any] | None]] = [(number, None) for number in range(_SEGMENTS)]
            while pending:
                jobs = [partial(self._scan_page, table, number, after) for number, after in pending]
                pending = []
                for number, page, after in each(pool, jobs, ahead=_SEGMENTS):
                    if after:
                        pending.append((number, after))
                    yield from page

    def read(self, generation: int, entity: str) -> dict[str, Cell]:
        """Return an entity's cells; DynamoDB may answer with the state of a moment ago."""
        request: dict[str, Any] = {
            "TableName": self._table(generation),
            "KeyConditionExpression": "entity = :entity",
            "ExpressionAttributeValues": {":entity": {"S": entity}},
        }
        found: dict[str, Cell] = {}
        while True:
            page = self._call("read an entity", lambda: self._client.query(**request))
            found.update((cell.feature, cell) for cell in map(_to_cell, page["Items"]))
            if "LastEvaluatedKey" not in page:
                return found
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def read_keys(self, generation: int, keys: Sequence[Key]) -> dict[Key, Cell]:
        """Return the cells of these keys, strongly consistent, 100 a call."""
        table = self._table(generation)
        batches = [keys[start : start + BATCH_READ_ITEMS] for start in range(0, len(keys), BATCH_READ_ITEMS)]
        if len(batches) == 1:
            return {cell.key: cell for cell in self._read_batch(table, batches[0])}
        with ThreadPool(LANES) as pool:
            jobs = (partial(self._read_batch, table, batch) for batch in batches)
            return {cell.key: cell for cells in each(pool, jobs, ahead=LANES) for cell in cells}

    def pointer(self) -> Pointer | None:
        """Return what is live."""
        try:
            answer = self._call(
                "read the pointer",
                lambda: self._client.get_item(TableName=self.name, Key=_POINTER_KEY, ConsistentRead=True),
            )
        except NotFound:
            return None
        item = answer.get("Item")
        return Pointer.from_text(item["value"]["S"]) if item else None

    def move_pointer(self, pointer: Pointer, *, expected: Pointer | None) -> None:
        """Compare-and-set by a conditional PutItem."""
        request: dict[str, Any] = {
            "TableName": self.name,
            "Item": {**_POINTER_KEY, "value": {"S": pointer.to_text()}},
            "ConditionExpression": "attribute_not_exists(#value)",
            "ExpressionAttributeNames": {"#value": "value"},
        }
        if expected is not None:
            request["ConditionExpression"] = "#value = :expected"
            request["ExpressionAttributeValues"] = {":expected": {"S": expected.to_text()}}
        try:
            moved = self._conditional(request)
        except NotFound:
            if expected is not None:
                raise
            with suppress(Conflict):  # another one made it just now; its pointer decides
                self._create_table(self.name)
            moved = self._conditional(request)
        if not moved and self.pointer() != pointer:
            message = f"the pointer of {self.name} was moved by another run"
            raise Conflict(message, hint="run again: it starts from what is live now")

    # ------------------------------------------------------------------ private

    def _table(self, generation: int) -> str:
        return f"{self.name}__{numbered(generation)}"

    def _create_table(self, name: str) -> None:
        self._call(
            "make a table",
            lambda: self._client.create_table(
                TableName=name,
                BillingMode="PAY_PER_REQUEST",
                KeySchema=[
                    {"AttributeName": "entity", "KeyType": "HASH"},
                    {"AttributeName": "feature", "KeyType": "RANGE"},
                ],
                AttributeDefinitions=[
                    {"AttributeName": "entity", "AttributeType": "S"},
                    {"AttributeName": "feature", "AttributeType": "S"},
                ],
            ),
        )
        waiter = self._client.get_waiter("table_exists")
        self._call(
            "wait for a table",
            lambda: waiter.wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": _READY_POLLS}),
        )

    def _write_batch(self, table: str, cells: Sequence[Cell]) -> int:
        left: list[Any] = [{"PutRequest": {"Item": _to_item(cell)}} for cell in cells]
        wait = _WAIT_SECONDS_MIN
        progressed = time.monotonic()
        while left:
            wanted = left
            request = partial(self._client.batch_write_item, RequestItems={table: wanted})
            answer = self._call("write cells", request)
            left = answer.get("UnprocessedItems", {}).get(table, [])
            if len(left) < len(wanted):
                progressed = time.monotonic()
            wait = self._pause(table, left, wait, progressed)
        return len(cells)

    def _read_batch(self, table: str, keys: Sequence[Key]) -> list[Cell]:
        left: Any = {
            "Keys": [{"entity": {"S": entity}, "feature": {"S": feature}} for entity, feature in keys],
            "ConsistentRead": True,
        }
        cells: list[Cell] = []
        wait = _WAIT_SECONDS_MIN
        progressed = time.monotonic()
        while left:
            request = partial(self._client.batch_get_item, RequestItems={table: left})
            answer = self._call("read cells", request)
            found = answer["Responses"].get(table, [])
            cells.extend(map(_to_cell, found))
            left = answer.get("UnprocessedKeys", {}).get(table)
            if found:
                progressed = time.monotonic()
            wait = self._pause(table, left, wait, progressed)
        return cells

    def _pause(self, table: str, left: object, wait: float, progressed: float) -> float:
        """Sleep when DynamoDB left something undone, longer each time; return the next wait."""
        if not left:
            return wait
        if time.monotonic() - progressed > _STALLED_SECONDS_MAX:
            message = f"DynamoDB took nothing more for {table} in {_STALLED_SECONDS_MAX:.0f} s"
            raise Throttled(message, hint="raise the table's throughput limit, or run again later")
        time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - not cryptography
        return min(wait * 2, _WAIT_SECONDS_MAX)

    def _put_newer(self, table: str, cell: Cell) -> bool:
        item = _to_item(cell)
        return self._conditional(
            {
                "TableName": table,
                "Item": item,
                "ConditionExpression": "attribute_not_exists(#version) OR #version < :version",
                "ExpressionAttributeNames": {"#version": "version"},
                "ExpressionAttributeValues": {":version": item["version"]},
            }
        )

    def _conditional(self, request: dict[str, Any]) -> bool:
        def put() -> bool:
            try:
                self._client.put_item(**request)
            except ClientError as error:
                if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
                    return False
                raise
            return True

        return self._call("write an item", put)

    def _scan_page(
        self, table: str, segment: int, after: dict[str, Any] | None
    ) -> tuple[int, list[Cell], dict[str, Any] | None]:
        request: dict[str, Any] = {
            "TableName": table,
            "Segment": segment,
            "TotalSegments": _SEGMENTS,
            "ConsistentRead": True,
        }
        if after:
            request["ExclusiveStartKey"] = after
        page = self._call("scan", lambda: self._client.scan(**request))
        return segment, [_to_cell(item) for item in page["Items"]], page.get("LastEvaluatedKey")

    def _call(self, what: str, call: Callable[[], Result]) -> Result:
        def translated() -> Result:
            try:
                return call()
            except (ClientError, BotoCoreError) as error:
                self._raise(what, error)

        return persist(translated)

    def _raise(self, what: str, error: ClientError | BotoCoreError) -> NoReturn:
        raise _translate(f"DynamoDB did not {what} for {self.name}", error) from error


def _translate(what: str, error: ClientError | BotoCoreError) -> UnderstudyError:  # noqa: PLR0911 - one a kind
    if not isinstance(error, ClientError):
        if isinstance(error, NoCredentialsError):
            return Denied(f"{what}: no credentials were found", hint="set credentials of the site in the config")
        return Unreachable(f"{what}: {error}", hint="check the endpoint and the network")
    code = str(error.response["Error"].get("Code", ""))
    words = f"{what}: {error.response['Error'].get('Message') or code}"
    if code == "ResourceNotFoundException":
        return NotFound(words, hint="rebuild the features")
    if code == "ResourceInUseException":
        return Conflict(words, hint="another rebuild runs; let it finish")
    if code in _THROTTLED:
        return Throttled(words, hint="try again later")
    if code in _DENIED:
        return Denied(words, hint="grant the identity of this site access to the feature tables")
    if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= _SERVER_ERROR:
        return Unreachable(words, hint="try again; if it stays, see the vendor's status page")
    return Unsupported(words, hint="keys of a DynamoDB item have at most 2,048 and 1,024 bytes, an item 400 KB")


def _check_whole(response_dict: dict[str, Any], **_: object) -> None:
    """Refuse an answer that was cut short: botocore would take it for one without items, unprocessed ones included.

    DynamoDB sends the CRC32 of each body; botocore looks at it only in its legacy mode of retries.
    """
    body = response_dict["body"]
    expected = response_dict["headers"].get("x-amz-crc32")
    if expected is not None:
        if (actual := zlib.crc32(body)) != int(expected):
            raise ChecksumError(checksum_type="crc32", expected_checksum=expected, actual_checksum=str(actual))
    elif response_dict["status_code"] < _CLIENT_ERROR:
        try:
            json.loads(body)
        except ValueError as error:
            raise IncompleteReadError(actual_bytes=len(body), expected_bytes=len(body) + 1) from error


def _to_item(cell: Cell) -> dict[str, dict[str, str]]:
    item = {
        "entity": {"S": cell.entity},
        "feature": {"S": cell.feature},
        "event_us": {"N": str(cell.event_us)},
        "version": {"S": version_of(cell)},
    }
    if cell.value is not None:
        item["value"] = {"S": cell.value}
    return item


def _to_cell(item: dict[str, dict[str, str]]) -> Cell:
    value = item.get("value")
    event, created, _ = times_of(item["version"]["S"])
    return Cell(item["entity"]["S"], item["feature"]["S"], value["S"] if value is not None else None, event, created)
