"""Column types, defaults and index definitions as a manifest carries them: read by a strict grammar, written anew.

Whoever can write to the vault's bucket can write a manifest. So no text of one is ever run: it is cut into words, every
word must be one that this grammar expects at its place, and the statement is put together from our own words, quoted
identifiers and quoted literals. There is no word for a second statement, a subselect, a comment or a function that is
not listed. What PostgreSQL's ``pg_get_indexdef``, ``format_type`` and ``pg_get_expr`` say of ordinary tables passes.

Pure: no I/O.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, get_args

from psycopg import sql

from understudy.vectors.interface import Element, Kind, Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from understudy.vectors.interface import Column, Hnsw, Schema

TEXT_CHARACTERS_MAX = 8_192
DEPTH_MAX = 64
_NAME_BYTES_MAX = 63
_EXCERPT_CHARACTERS = 80

_TOKEN = re.compile(
    r"""(?P<space>[\ \n]+)
    |(?P<literal>'(?:[^']|'')*+')
    |(?P<name>"(?:[^"]|"")++")
    |(?P<keyword>[A-Z][A-Z_]*)
    |(?P<word>[a-z_][a-z0-9_]*)
    |(?P<number>[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)
    |(?P<mark>::|[()\[\],.])
    |(?P<sign>[-+*/<>=~!@\#%^&|?]+)
    """,
    re.VERBOSE,
)

_VARCHAR = r"'(?:[^']|'')*+'::character varying"
_VARCHARS_AS_TEXT = re.compile(rf"\(ARRAY\[({_VARCHAR}(?:, {_VARCHAR})*)\]\)::text\[\]")

#: The declared types of each kind of column.
_DECLARED: dict[Kind, set[str]] = {
    "text": {"text", "character varying"},
    "int2": {"smallint"},
    "int4": {"integer"},
    "int8": {"bigint"},
    "float4": {"real"},
    "float8": {"double precision"},
    "bool": {"boolean"},
    "json": {"jsonb"},
    "time": {"timestamp with time zone"},
    "uuid": {"uuid"},
    "numeric": {"numeric"},
    "vector": {"vector", "halfvec"},
}
_ELEMENTS: dict[str, Element] = {"vector": "float4", "halfvec": "float2"}
#: Types that an expression may cast to, and how many numbers may stand in brackets behind each.
_TYPES = {
    "text": 0,
    "smallint": 0,
    "integer": 0,
    "bigint": 0,
    "real": 0,
    "double precision": 0,
    "boolean": 0,
    "json": 0,
    "jsonb": 0,
    "jsonpath": 0,
    "uuid": 0,
    "bytea": 0,
    "name": 0,
    "inet": 0,
    "cidr": 0,
    "date": 0,
    "interval": 0,
    "regconfig": 0,
    "tsvector": 0,
    "tsquery": 0,
    "bpchar": 1,
    "character": 1,
    "character varying": 1,
    "numeric": 2,
    "vector": 1,
    "halfvec": 1,
    **{f"{kind} {zone} time zone": 1 for kind in ("time", "timestamp") for zone in ("with", "without")},
}

# PostgreSQL's own, which compute a value from values and do nothing else.
_FUNCTION_NAMES = """
    abs array_length array_to_string ascii bit_length btrim cardinality ceil ceiling char_length character_length
    date_part date_trunc decode div encode floor initcap json_extract_path_text jsonb_array_length jsonb_extract_path
    jsonb_extract_path_text jsonb_to_tsvector jsonb_typeof left length ln log lower ltrim md5 mod octet_length power
    regexp_replace replace reverse right round rtrim setweight sha224 sha256 sha384 sha512 sign split_part sqrt
    starts_with strip strpos substr substring timezone to_tsvector translate trunc upper
"""
# What a default may call beside them.
_DEFAULT_FUNCTION_NAMES = """
    clock_timestamp date gen_random_uuid jsonb_build_array jsonb_build_object now random statement_timestamp to_char
    transaction_timestamp uuidv4 uuidv7
"""
_OPERATOR_SIGNS = "+ - * / % ^ || = <> < > <= >= ~~ !~~ ~~* !~~* ~ !~ ~* !~* -> ->> #> #>> @> <@ ? ?| ?& && @@"
_EXTRACTED_NAMES = """
    century day decade dow doy epoch hour isodow isoyear julian microseconds millennium milliseconds minute month
    quarter second timezone week year
"""
# Of an extension (uuid-ossp), so it is found by the search path.
_EXTENSION_FUNCTIONS = frozenset({"uuid_generate_v4"})
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_DEFAULT_FUNCTIONS = _FUNCTIONS | _EXTENSION_FUNCTIONS | frozenset(_DEFAULT_FUNCTION_NAMES.split())
_OPERATORS = frozenset(_OPERATOR_SIGNS.split())
_EXTRACTED = frozenset(_EXTRACTED_NAMES.split())
_PREFIXES = {"+", "-", "@"}
_CLOCKS = {"CURRENT_TIME", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP"}
_MOMENTS = _CLOCKS | {"CURRENT_DATE", "CURRENT_ROLE", "CURRENT_USER", "SESSION_USER"}
_CALLED_KEYWORDS = {"COALESCE", "GREATEST", "LEAST", "NULLIF"}
_LIKE_CALLS = _CALLED_KEYWORDS | {"EXTRACT", "SUBSTRING", "TRIM"}

_METHODS = {"btree", "hash", "gin", "gist", "spgist", "brin"}
_STORAGE = {
    "autosummarize",
    "buffering",
    "deduplicate_items",
    "fastupdate",
    "fillfactor",
    "gin_pending_list_limit",
    "pages_per_range",
}
_STORED = re.compile(r"[0-9]{1,9}|on|off|true|false|auto")
_GRAPH = {"m": (2, 100), "ef_construction": (4, 1000)}


class Unreadable(ValueError):
    """A definition that the grammar does not know.

    Args:
        what: which it is: ``the index by_title``, ``the default of column price``.
        reason: what in it is not known.
        text: the definition itself.
    """

    def __init__(self, what: str, reason: str, text: object) -> None:
        """Keep which it is, and why."""
        shown = _shown(str(text)[: _EXCERPT_CHARACTERS + 1].replace("\n", " "))
        shown = shown if len(shown) <= _EXCERPT_CHARACTERS else shown[:_EXCERPT_CHARACTERS] + "..."
        super().__init__(f"{what}, {shown}: {reason}")
        self.what = what


@dataclass(frozen=True, slots=True)
class Definition:
    """A schema's parts as statements take them, in the schema's order.

    Attributes:
        columns: each as CREATE TABLE takes it.
        indexes: each from USING on, as CREATE INDEX takes it.
    """

    columns: tuple[sql.Composed, ...]
    indexes: tuple[sql.Composed, ...]


def read(schema: Schema) -> Definition:
    """Read all of a schema that a statement is made of. Raises Unreadable for the first part that is not known."""
    _check_names(schema)
    if type(schema.dimension) is not int or schema.dimension < 1:
        raise Unreadable("the dimension of the vectors", "a dimension is a number from 1", schema.dimension)
    for what, found, known in (("metric", schema.metric, Metric), ("element", schema.element, Element)):
        if found not in get_args(known):
            raise Unreadable(f"the {what} of the vectors", f"known are {', '.join(get_args(known))}", found)
    for graph in schema.hnsw:
        _check_graph(graph)
    names = frozenset(column.name for column in schema.columns)
    indexes = []
    for index in schema.indexes:
        what = f"the index {_shown(index.name)}"
        if not isinstance(index.unique, bool) or not isinstance(index.primary, bool):
            raise Unreadable(what, "unique and primary are true or false", index.definition)
        indexes.append(read_index(index.definition, names, what))
    return Definition(tuple(_column(schema, column) for column in schema.columns), tuple(indexes))


def settled(definition: str) -> str:
    """Return an index's definition as PostgreSQL tells it once it was made from its own words.

    ``title IN ('a', 'b')`` over a varchar is told with a cast of the whole array, which, run again, is told as casts of
    its members; from then on it stays so.
    """

    def members(found: re.Match[str]) -> str:
        return f"ARRAY[{', '.join(f'({member})::text' for member in re.findall(_VARCHAR, found[1]))}]"

    return _VARCHARS_AS_TEXT.sub(members, definition)


def read_type(text: str, what: str = "the type") -> sql.Composed:
    """Read a declared type, such as ``character varying(40)``. Raises Unreadable."""
    return _Reader(text, what).whole(lambda reader: reader.type())


def read_default(text: str, what: str = "the default") -> sql.Composed:
    """Read a default: an expression without columns that may ask for the moment or a fresh id. Raises Unreadable."""
    return _Reader(text, what, functions=_DEFAULT_FUNCTIONS, default=True).whole(lambda reader: reader.expression())


def read_index(text: str, columns: Iterable[str], what: str = "the index") -> sql.Composed:
    """Read an index's definition from USING on, over these columns. Raises Unreadable."""
    return _Reader(text, what, columns=frozenset(columns)).whole(lambda reader: reader.index())


def _column(schema: Schema, column: Column) -> sql.Composed:
    what = f"the type of column {_shown(column.name)}"
    declared = read_type(column.declared, what)
    base = column.declared.partition("(")[0]
    if column.kind == "time":
        base = re.sub(r"\([0-9]+\)", "", column.declared)
    if base not in _DECLARED[column.kind]:
        raise Unreadable(
            what, f"a column of kind {column.kind} is {' or '.join(_DECLARED[column.kind])}", column.declared
        )
    if column.kind == "vector" and column.declared != f"{base}({schema.dimension})":
        raise Unreadable(what, f"the vectors have {schema.dimension} numbers", column.declared)
    if column.kind == "vector" and schema.element != _ELEMENTS[base]:
        raise Unreadable(what, f"the vectors are of {schema.element}", column.declared)
    if not isinstance(column.nullable, bool):
        raise Unreadable(what, "nullable is true or false", column.nullable)
    words: list[sql.Composable] = [sql.Identifier(column.name), declared]
    if column.default == "identity":
        words.append(sql.SQL("GENERATED BY DEFAULT AS IDENTITY"))
    elif column.default is not None:
        # In brackets it ends where it ends, whatever stands behind it.
        default = read_default(column.default, f"the default of column {_shown(column.name)}")
        words.append(sql.SQL("DEFAULT ({})").format(default))
    if not column.nullable:
        words.append(sql.SQL("NOT NULL"))
    return sql.SQL(" ").join(words)


def _check_names(schema: Schema) -> None:
    named: list[tuple[str, object]] = [("column", column.name) for column in schema.columns]
    named += [("index", index.name) for index in schema.indexes]
    named += [("index", graph.name) for graph in schema.hnsw]
    for what, name in named:
        if not isinstance(name, str) or not _encodable(name) or not 0 < len(name.encode()) <= _NAME_BYTES_MAX:
            raise Unreadable(f"the name of a{'n' * (what == 'index')} {what}", "a name has 1 to 63 bytes of text", name)


def _check_graph(graph: Hnsw) -> None:
    what = f"the index {_shown(graph.name)}"
    if graph.metric not in get_args(Metric):
        raise Unreadable(what, f"known are {', '.join(get_args(Metric))}", graph.metric)
    for name, (least, most) in _GRAPH.items():
        value = getattr(graph, name)
        if type(value) is not int or not least <= value <= most:
            raise Unreadable(what, f"{name} is a number from {least} to {most}", value)


def _encodable(text: str) -> bool:
    # PostgreSQL's text holds no NUL, and a lone surrogate is no text at all.
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    value: str


_END = _Token("end", "")


class _Reader:
    """Reads one text from left to right, and writes what it has read in words of its own."""

    def __init__(
        self,
        text: str,
        what: str,
        *,
        columns: frozenset[str] = frozenset(),
        functions: frozenset[str] = _FUNCTIONS,
        default: bool = False,
    ) -> None:
        self._text = text
        self._what = what
        self._columns = columns
        self._functions = functions
        self._default = default
        self._depth = 0
        self._place = 0
        self._written: list[sql.Composable] = []
        self._tokens = self._cut()

    def whole(self, part: Callable[[_Reader], None]) -> sql.Composed:
        """Read one part, behind which nothing may stand."""
        part(self)
        if self._next != _END:
            self._refuse(f"{self._next.value} is not expected there")
        return sql.SQL(" ").join(self._written)

    def type(self) -> None:
        """Read a type with its numbers, and [] where it is an array."""
        base = self._expect("word").value
        if base == "double":
            base += f" {self._expect('word').value}"
        if base == "character" and self._take("word", "varying"):
            base += " varying"
        numbers = ""
        if base in {"time", "timestamp"}:
            numbers = self._numbers(1)
            words = [self._expect("word").value for _ in range(3)]
            written, base = f"{base}{numbers} {' '.join(words)}", f"{base} {' '.join(words)}"
            if base not in _TYPES:
                self._refuse(f"{base} is not a type that is known here")
        elif base in _TYPES:
            written = base + self._numbers(_TYPES[base])
        else:
            self._refuse(f"{base} is not a type that is known here")
        if self._take("mark", "["):
            self._expect("mark", "]")
            written += "[]"
        self._written.append(sql.SQL(written))  # put together from words of the table above, and digits

    def expression(self) -> None:
        """Read operands between operators; in which order they bind is PostgreSQL's own matter."""
        with self._deeper():
            self._operand()
            while self._operator():
                pass

    def index(self) -> None:
        """Read an index's definition from USING on."""
        self._expect("keyword", "USING")
        method = self._expect("word").value
        if method not in _METHODS:
            self._refuse(f"{method} is not one of {', '.join(sorted(_METHODS))}")
        self._write(f"USING {method}")
        self._listed(self._element)
        if self._take("keyword", "INCLUDE"):
            self._write("INCLUDE")
            self._listed(self._column)
        if self._take("keyword", "NULLS"):
            self._expect("keyword", "NOT")
            self._expect("keyword", "DISTINCT")
            self._write("NULLS NOT DISTINCT")
        if self._take("keyword", "WITH"):
            self._write("WITH")
            self._listed(lambda: self._option(_STORAGE))
        if self._take("keyword", "WHERE"):
            self._write("WHERE")
            self.expression()

    def _element(self) -> None:
        """Read a column, a call, or an expression in brackets; then how it is ordered."""
        token = self._next
        if token == _Token("mark", "("):
            self._bracketed()
        elif token.kind in {"word", "name"} or (token.kind == "keyword" and token.value in _LIKE_CALLS):
            self._primary()
        else:
            self._refuse(f"{token.value or 'the end'} is not expected there")
        if self._take("keyword", "COLLATE"):
            self._collation()
        if self._next.kind in {"word", "name"}:
            self._qualified()  # the operator class
            if self._next == _Token("mark", "("):
                self._listed(lambda: self._option({"siglen", "numranges"}))
        for choice in ("ASC", "DESC"):
            if self._take("keyword", choice):
                self._write(choice)
                break
        if self._next == _Token("keyword", "NULLS"):
            self._expect("keyword", "NULLS")
            place = self._expect("keyword").value
            if place not in {"FIRST", "LAST"}:
                self._refuse(f"{place} is not expected there")
            self._write(f"NULLS {place}")

    def _option(self, known: set[str]) -> None:
        name = self._expect("word").value
        if name not in known:
            self._refuse(f"{name} is not an option that is known here")
        self._expect("sign", "=")
        token = self._advance()
        if token.kind not in {"literal", "number", "word"} or not _STORED.fullmatch(token.value):
            self._refuse(f"{token.value} is not a value of {name}")
        self._written.append(sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(token.value)))

    def _operator(self) -> bool:
        """Read an operator and what stands behind it; False when there is none."""
        token = self._next
        if token.kind == "sign":
            self._advance()
            if token.value not in _OPERATORS:
                self._refuse(f"{token.value} is not an operator that is known here")
            self._write(token.value)
            for choice in ("ANY", "ALL"):
                if self._take("keyword", choice):
                    self._write(choice)
                    self._bracketed()
                    return True
            self._operand()
        elif token.value in {"AND", "OR"} and token.kind == "keyword":
            self._advance()
            self._write(token.value)
            self._operand()
        elif self._take("keyword", "IS"):
            self._is()
        elif self._take("keyword", "AT"):
            self._expect("keyword", "TIME")
            self._expect("keyword", "ZONE")
            self._write("AT TIME ZONE")
            self._operand()
        else:
            return False
        return True

    def _is(self) -> None:
        self._write("IS")
        if self._take("keyword", "NOT"):
            self._write("NOT")
        word = self._expect("keyword").value
        if word == "DISTINCT":
            self._expect("keyword", "FROM")
            self._write("DISTINCT FROM")
            self._operand()
        elif word in {"NULL", "TRUE", "FALSE", "UNKNOWN"}:
            self._write(word)
        else:
            self._refuse(f"{word} is not expected there")

    def _operand(self) -> None:
        while (token := self._next).kind == "sign" or token == _Token("keyword", "NOT"):
            self._advance()
            if token.kind == "sign" and token.value not in _PREFIXES:
                self._refuse(f"{token.value} is not expected there")
            self._write(token.value)
        self._primary()
        while True:
            if self._take("mark", "::"):
                self._write("::")
                self.type()
            elif self._take("mark", "["):
                self._write("[")
                self.expression()
                self._expect("mark", "]")
                self._write("]")
            elif self._take("keyword", "COLLATE"):
                self._collation()
            else:
                return

    def _primary(self) -> None:
        token = self._next
        if token == _Token("mark", "("):
            self._bracketed()
        elif token.kind == "literal":
            self._written.append(sql.Literal(self._advance().value))
        elif token.kind == "number":
            self._write(self._advance().value)
        elif token.kind == "keyword":
            self._keyword(self._advance().value)
        elif token in (_Token("word", "true"), _Token("word", "false")):
            self._write(self._advance().value)
        elif token.kind in {"word", "name"} and self._after == _Token("mark", "("):
            self._call(self._advance().value)
        elif token.kind in {"word", "name"}:
            self._column()
        else:
            self._refuse(f"{token.value or 'the end'} is not expected there")

    def _keyword(self, word: str) -> None:
        """Read what begins with a keyword."""
        if word in {"NULL", "TRUE", "FALSE"} or (self._default and word in _MOMENTS):
            self._write(word + (self._numbers(1) if word in _CLOCKS else ""))
        elif word in _CALLED_KEYWORDS:
            self._write(word)
            self._listed(self.expression)
        elif word in (special := self._special()):
            special[word]()
        else:
            self._refuse(f"{word} is not expected there")

    def _special(self) -> dict[str, Callable[[], None]]:
        return {
            "ARRAY": self._array,
            "CASE": self._case,
            "EXTRACT": self._extract,
            "SUBSTRING": self._substring,
            "TRIM": self._trim,
        }

    def _array(self) -> None:
        self._write("ARRAY")
        self._listed(self.expression, "[]", empty=True)

    def _extract(self) -> None:
        self._expect("mark", "(")
        part = self._expect("word").value
        if part not in _EXTRACTED:
            self._refuse(f"{part} is no part of a moment")
        self._expect("keyword", "FROM")
        self._write(f"EXTRACT ({part} FROM")
        self.expression()
        self._close()

    def _substring(self) -> None:
        self._open("SUBSTRING")
        self.expression()
        for between in ("FROM", "FOR"):
            if self._take("keyword", between):
                self._write(between)
                self.expression()
        self._close()

    def _trim(self) -> None:
        self._open("TRIM")
        for side in ("BOTH", "LEADING", "TRAILING"):
            if self._take("keyword", side):
                self._write(side)
        if self._next != _Token("keyword", "FROM"):
            self.expression()
        if self._take("keyword", "FROM"):
            self._write("FROM")
            self.expression()
        self._close()

    def _case(self) -> None:
        with self._deeper():
            self._write("CASE")
            if self._next != _Token("keyword", "WHEN"):
                self.expression()
            while self._take("keyword", "WHEN"):
                self._write("WHEN")
                self.expression()
                self._expect("keyword", "THEN")
                self._write("THEN")
                self.expression()
            if self._take("keyword", "ELSE"):
                self._write("ELSE")
                self.expression()
            self._expect("keyword", "END")
            self._write("END")

    def _call(self, name: str) -> None:
        if self._default and name == "nextval":
            self._expect("mark", "(")
            sequence = self._expect("literal").value
            self._expect("mark", "::")
            self._expect("word", "regclass")
            self._expect("mark", ")")
            self._written.append(sql.SQL("pg_catalog.nextval({}::regclass)").format(sql.Literal(sequence)))
            return
        if name not in self._functions:
            self._refuse(f"the function {name} is not one that is known here")
        self._write(name if name in _EXTENSION_FUNCTIONS else f"pg_catalog.{name}")
        self._listed(self.expression, empty=True)

    def _column(self) -> None:
        token = self._advance()
        if token.kind not in {"word", "name"} or token.value not in self._columns:
            self._refuse(f"{token.value or 'the end'} is no column")
        self._written.append(sql.Identifier(token.value))

    def _collation(self) -> None:
        self._write("COLLATE")
        self._qualified()

    def _qualified(self) -> None:
        """Read a name that is looked up and never called: an operator class, a collation."""
        names = [self._name()]
        if self._take("mark", "."):
            names.append(self._name())
        self._written.append(sql.Identifier(*names))

    def _name(self) -> str:
        token = self._advance()
        if token.kind not in {"word", "name"} or len(token.value.encode()) > _NAME_BYTES_MAX:
            self._refuse(f"{token.value or 'the end'} is not expected there")
        return token.value

    def _numbers(self, most: int) -> str:
        """Read ``(n[,m])`` behind a type that takes so many numbers, and return it; empty when there is none."""
        if self._next != _Token("mark", "("):
            return ""
        self._advance()
        found: list[str] = []
        while not found or self._take("mark", ","):
            minus = "-" if found and self._take("sign", "-") else ""
            digits = self._expect("number").value
            if not digits.isdecimal() or len(digits) > 8 or len(found) == most:
                self._refuse(f"{digits} is not expected there")
            found.append(minus + digits)
        self._expect("mark", ")")
        return f"({','.join(found)})"

    def _bracketed(self) -> None:
        self._expect("mark", "(")
        self._write("(")
        self.expression()
        self._close()

    def _open(self, word: str) -> None:
        self._expect("mark", "(")
        self._write(f"{word} (")

    def _close(self) -> None:
        self._expect("mark", ")")
        self._write(")")

    def _listed(self, part: Callable[[], None], marks: str = "()", *, empty: bool = False) -> None:
        """Read parts between commas, in brackets."""
        self._expect("mark", marks[0])
        self._write(marks[0])
        if not (empty and self._next == _Token("mark", marks[1])):
            part()
            while self._take("mark", ","):
                self._write(",")
                part()
        self._expect("mark", marks[1])
        self._write(marks[1])

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    @property
    def _after(self) -> _Token:
        return self._tokens[min(self._place + 1, len(self._tokens) - 1)]

    def _advance(self) -> _Token:
        token = self._next
        if token != _END:
            self._place += 1
        return token

    def _take(self, kind: str, value: str) -> bool:
        if self._next != _Token(kind, value):
            return False
        self._place += 1
        return True

    def _expect(self, kind: str, value: str | None = None) -> _Token:
        token = self._next
        if token.kind != kind or value not in (None, token.value):
            self._refuse(f"{token.value or 'the end'} is not expected there")
        return self._advance()

    def _write(self, words: str) -> None:
        """Write words of ours: each was compared with a table of this file before, or is a number."""
        self._written.append(sql.SQL(words))

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self._refuse(f"it is nested deeper than {DEPTH_MAX}")
        yield
        self._depth -= 1

    def _cut(self) -> list[_Token]:
        text = self._text
        if not isinstance(text, str) or not _encodable(text):
            self._refuse("it is no text")
        if len(text) > TEXT_CHARACTERS_MAX:
            self._refuse(f"it is longer than {TEXT_CHARACTERS_MAX:,} characters")
        tokens: list[_Token] = []
        place = 0
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None or found.lastgroup is None:
                self._refuse(f"{_shown(text[place])} is not expected there")
            kind, value = found.lastgroup, found.group()
            if kind in {"literal", "name"}:
                value = value[1:-1].replace(value[0] * 2, value[0])
            if kind != "space":
                tokens.append(_Token(kind, value))
            place = found.end()
        return [*tokens, _END]

    def _refuse(self, reason: str) -> NoReturn:
        raise Unreadable(self._what, _shown(reason if len(reason) <= 120 else reason[:120] + "..."), self._text)
