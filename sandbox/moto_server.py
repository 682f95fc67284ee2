"""moto's server (S3, DynamoDB, Route 53), quick enough for a service.

``python -m sandbox.moto_server -H HOST -p PORT``

moto sorts all items of a table for every query, a quarter of a second at 10,000 items, and tries ten types on every
value that it answers. Here a query of a table's own key looks at the items of that key alone, and a plain value is
written as it is; what is answered is the same.

S3 looks at the condition of a completed upload and shows the object in one step. moto does so in two, between which
another upload can end; here one follows the other.
"""

from __future__ import annotations

import copy
import inspect
import logging
import sys
import threading
from collections import defaultdict
from typing import Any

from moto.core.serialize import BaseJSONSerializer
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.dynamodb.models.table import Table
from moto.s3.responses import S3Response
from moto.server import main

_query = Table.query
_SIGNATURE = inspect.signature(_query)


def query_of_key(self: Table, *arguments: Any, **named: Any) -> Any:
    """Do what ``Table.query`` does, on a table that holds nothing but the items of the key that is asked for."""
    asked = _SIGNATURE.bind(self, *arguments, **named).arguments
    key = asked.get("hash_key")
    if asked.get("index_name") is not None or key is None:
        return _query(self, *arguments, **named)
    narrow = copy.copy(self)
    narrow.items = defaultdict(dict, {key: self.items[key]} if key in self.items else {})
    return _query(narrow, *arguments, **named)


_serialize_structure = BaseJSONSerializer._serialize_type_structure  # noqa: SLF001 - there is no other way in


def serialize_structure(self: BaseJSONSerializer, serialized: Any, value: Any, shape: Any, key: str) -> None:
    """Do what the serializer does, but write a string or number of DynamoDB as it is, not by trying ten types."""
    plain = value.to_json() if isinstance(value, DynamoType) else value
    if shape.name == "AttributeValue" and key and type(plain) is dict and plain.keys() <= {"S", "N"}:
        self._default_serialize(serialized, dict(plain), shape, key)
    else:
        _serialize_structure(self, serialized, value, shape, key)


_key_response_post = S3Response._key_response_post  # noqa: SLF001 - there is no other way in
_completing = threading.Lock()


def complete_in_turn(self: S3Response, *arguments: Any, **named: Any) -> Any:
    """Do what moto does with a POST to a key; uploads that are completed under a condition, one after the other."""
    if "If-None-Match" not in self.headers:
        return _key_response_post(self, *arguments, **named)
    with _completing:
        return _key_response_post(self, *arguments, **named)


if __name__ == "__main__":
    S3Response._key_response_post = complete_in_turn  # type: ignore[method-assign]  # noqa: SLF001
    Table.query = query_of_key  # type: ignore[method-assign]
    BaseJSONSerializer._serialize_type_structure = serialize_structure  # type: ignore[method-assign]  # noqa: SLF001
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    main(sys.argv[1:])
