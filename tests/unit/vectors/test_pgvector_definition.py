"""Definitions that PostgreSQL tells of ordinary tables pass; what could do anything else is refused, unread."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from understudy.vectors.interface import Column, Hnsw, PlainIndex, Schema
from understudy.vectors.pgvector_definition import (
    DEPTH_MAX,
    TEXT_CHARACTERS_MAX,
    Unreadable,
    read,
    read_default,
    read_index,
    read_type,
    settled,
)

pytestmark = pytest.mark.slow  # 1,300 cases; a loop of 30 seconds has no room for them

COLUMNS = ("id", "title", "price", "j", "at", "order", 'a "b"', "v")

# As pg_get_indexdef says them, from USING on.
INDEXES = [
    "USING btree (id)",
    "USING btree (title) INCLUDE (price)",
    "USING btree (title, id) NULLS NOT DISTINCT",
    "USING btree (price DESC, lower(title)) WHERE (price < 10)",
    "USING btree (price DESC NULLS LAST, id NULLS FIRST) WITH (fillfactor='70', deduplicate_items=off)",
    'USING btree ("order", "a ""b""")',
    'USING btree (title COLLATE "C" text_pattern_ops)',
    'USING btree (title COLLATE pg_catalog."en-x-icu")',
    "USING hash (title)",
    "USING brin (at) WITH (pages_per_range='32', autosummarize='true')",
    "USING gin (j jsonb_path_ops)",
    "USING gin (title public.gin_trgm_ops)",
    "USING gist (title gist_trgm_ops (siglen='32'))",
    "USING gin (to_tsvector('english'::regconfig, COALESCE(title, ''::text)))",
    "USING gin (to_tsvector('english'::regconfig, ((title || ' '::text) || (j ->> 'body'::text))))",
    "USING btree (((j ->> 'sku'::text)))",
    "USING btree ((((j -> 'a'::text) ->> 'b'::text)::integer))",
    'USING btree ("left"(title, 3), md5(title))',
    "USING btree (SUBSTRING(title FROM 1 FOR 3), TRIM(BOTH FROM title), TRIM(BOTH '-'::text FROM title))",
    "USING btree (date_trunc('day'::text, (at AT TIME ZONE 'UTC'::text)))",
    "USING btree (EXTRACT(year FROM (at AT TIME ZONE 'UTC'::text)))",
    "USING btree (id) WHERE ((title IS NOT NULL) AND (NOT (price IS DISTINCT FROM '-1'::integer)))",
    "USING btree (id) WHERE (title = ANY (ARRAY['a'::text, 'it''s; --'::text]))",
    "USING btree (id) WHERE ((title)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[]))",
    "USING btree (id) WHERE (price >= (0)::numeric(12,2)) AND (title ~~ 'C:\\%'::text)",
    "USING btree ((CASE WHEN (price > 10) THEN 'dear'::text WHEN (id IS NULL) THEN NULL::text ELSE 'low'::text END))",
    "USING btree (id) WHERE (at > '2026-01-01 00:00:00+00'::timestamp with time zone)",
    "USING btree (abs((- price)))",
]
DEFAULTS = [
    "0",
    "0.50",
    "'-1'::integer",
    "true",
    "NULL::character varying",
    "''::text",
    "'it''s; DROP TABLE x; --'::text",
    "'\\'::text",
    "'{}'::jsonb",
    "'{}'::text[]",
    "ARRAY[]::text[]",
    "ARRAY['a'::text, 'b'::text]",
    "'[0,0,0]'::vector(3)",
    "now()",
    "timezone('utc'::text, now())",
    "(now() + '1 day'::interval)",
    "(now() AT TIME ZONE 'utc'::text)",
    "CURRENT_TIMESTAMP",
    "CURRENT_TIMESTAMP(3)",
    "CURRENT_DATE",
    "CURRENT_USER",
    "gen_random_uuid()",
    "uuid_generate_v4()",
    "(gen_random_uuid())::text",
    "nextval('products_id_seq'::regclass)",
    "(EXTRACT(epoch FROM now()))::bigint",
    "'2026-11-21 10:00:00.5+00'::timestamp(3) with time zone",
]
TYPES = [
    "text",
    "character varying",
    "character varying(40)",
    "smallint",
    "integer",
    "bigint",
    "real",
    "double precision",
    "boolean",
    "jsonb",
    "timestamp with time zone",
    "timestamp(3) with time zone",
    "uuid",
    "numeric",
    "numeric(12,2)",
    "numeric(5,-2)",
    "vector(384)",
    "halfvec(4)",
]

# What is put where an expression, or the end of one, belongs.
HOSTILE = [
    "; DROP TABLE canary",
    "0; DROP TABLE canary; --",
    "0) ; DROP TABLE canary; --",
    "0 -- the rest",
    "0 /* the rest */",
    "0 /* /* nested */ */",
    "$$x$$",
    "$tag$x$tag$",
    "$1",
    "(SELECT 1)",
    "(select 1)",
    "(TABLE canary)",
    "(VALUES (1))",
    "(WITH x AS (DELETE FROM canary RETURNING 1) SELECT 1)",
    "ARRAY(SELECT 1)",
    "EXISTS (SELECT 1)",
    "(0 = ANY (SELECT 1))",
    "pg_read_file('/etc/passwd'::text)",
    "pg_catalog.pg_read_file('/etc/passwd'::text)",
    "\"pg_read_file\"('/etc/passwd'::text)",
    "lo_import('/etc/passwd'::text)",
    "pg_sleep((1)::double precision)",
    "dblink_exec('host=evil'::text, 'x'::text)",
    "query_to_xml('SELECT 1'::text, true, true, ''::text)",
    "set_config('x.y'::text, 'z'::text, false)",
    "lower(pg_read_file('/etc/passwd'::text))",
    "public.lower('x'::text)",
    "PG_READ_FILE('x')",
    "LOWER('x')",
    "COPY canary TO PROGRAM 'id'",
    "(COPY canary FROM PROGRAM 'id')",
    "'ends early' ' and goes on'",
    "'ends early'; DROP TABLE canary; --'",
    "'never ends",
    '"never ends',
    "'never ends''",
    "E'\\'; DROP TABLE canary; --'",
    "e'\\''",
    "U&'\\0027; DROP TABLE canary; --'",
    'U&"\\0022"',
    "B'101'::\"bit\"",
    "X'1F'",
    "N'x'",
    "'x'::regclass",
    "'x'::regproc",
    "'x'::public.evil",
    "'x'::xml",
    "CAST('x' AS text)",
    "'x'::text COLLATE",
    "'x'\u037e DROP TABLE canary",
    "\uff1b DROP TABLE canary",
    "\u02bcx\u02bc",
    "lower\u00a0('x'::text)",
    "0\nDROP TABLE canary",
    "0\t",
    "'x\0y'::text",
    "'\ud800'::text",
    "\\",
    "\\! id",
    "1 OPERATOR(public.+) 1",
    "1 +-+ 1",
    "1 <-> 1",
    "`id`",
    "canary.secret",
    "canary.*",
    "*",
    "CURRENT_SETTING('x')",
    "ROW(1)",
    "(0",
    "0)",
    "ARRAY[0",
    "CASE WHEN true THEN 1",
    "()",
    "NOT",
    "lower",
    "lower('x'::text",
    "nextval(('products_id'::text)::regclass)",
    "DEFAULT",
    "0 GENERATED ALWAYS AS (0) STORED",
    "0 CHECK (true)",
    "0 REFERENCES canary",
    "0, evil text",
    "(" * (DEPTH_MAX + 1) + "0" + ")" * (DEPTH_MAX + 1),
    "(" * 4000 + "0" + ")" * 4000,
    "'" + "x" * 1_000_000 + "'",
    "(" * 1_000_000,
    "'" * 999_999,
]


def written(statement):
    return statement.as_string(None)


def schema_of(**changes):
    schema = Schema(
        columns=(Column("id", "int8", "bigint", nullable=False), Column("v", "vector", "vector(3)")),
        id="id",
        vector="v",
        dimension=3,
        hnsw=(Hnsw("near", "cosine"),),
        indexes=(PlainIndex("products_pkey", "USING btree (id)", unique=True, primary=True),),
    )
    return replace(schema, **changes)


def with_column(**changes):
    return schema_of(columns=(*schema_of().columns, replace(Column("title", "text", "text"), **changes)))


def outside(statement):
    """Return a statement without its literals and quoted names; fails when one of them does not end."""
    rest = re.sub(r"""E'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*\"""", " 0 ", statement)
    assert "'" not in rest
    assert '"' not in rest
    return rest


@pytest.mark.parametrize("text", INDEXES)
def test_an_index_of_an_ordinary_table_is_read(text):
    assert written(read_index(text, COLUMNS)).startswith("USING ")


@pytest.mark.parametrize("text", DEFAULTS)
def test_a_default_of_an_ordinary_table_is_read(text):
    assert "" != written(read_default(text))


@pytest.mark.parametrize("text", TYPES)
def test_a_type_of_an_ordinary_table_is_written_as_it_was_declared(text):
    assert text == written(read_type(text))


def test_names_are_quoted_functions_are_postgresqls_own_and_literals_are_written_anew():
    text = 'USING btree (lower(title) COLLATE "C", "a ""b""") WHERE (title <> \'it\'\'s \\\'::text)'
    wanted = (
        'USING btree ( pg_catalog.lower ( "title" ) COLLATE "C" , "a ""b""" ) '
        "WHERE ( \"title\" <>  E'it''s \\\\' :: text )"
    )
    assert wanted == written(read_index(text, COLUMNS))


def test_a_column_is_made_of_its_name_its_type_its_default_and_whether_it_may_be_empty():
    columns = read(with_column(default="'new'::text", nullable=False)).columns
    assert ['"id" bigint NOT NULL', '"v" vector(3)', "\"title\" text DEFAULT ('new' :: text) NOT NULL"] == [
        written(column) for column in columns
    ]


def test_a_column_that_numbers_itself_is_an_identity():
    columns = read(with_column(kind="int8", declared="bigint", default="identity")).columns
    assert '"title" bigint GENERATED BY DEFAULT AS IDENTITY' == written(columns[-1])


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:30]))
def test_a_hostile_default_is_refused(text):
    with pytest.raises(Unreadable):
        read_default(text)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:30]))
@pytest.mark.parametrize(
    "frame",
    [
        "USING btree (({}))",
        "USING btree (id) WHERE ({})",
        "USING btree (id) WHERE (id = {})",
        "USING btree (lower({}))",
        "USING {}",
        "USING btree ({})",
        "USING btree (id DESC {})",
        "USING btree (id) INCLUDE ({})",
        "USING btree (id) WITH ({})",
        "USING btree (id) WITH (fillfactor={})",
        "{}",
    ],
)
def test_a_hostile_index_is_refused(frame, text):
    with pytest.raises(Unreadable):
        read_index(frame.replace("{}", text), COLUMNS)


@pytest.mark.parametrize("text", ["", " "])
def test_nothing_is_no_definition(text):
    for reading in (read_default, read_type, lambda text: read_index(text, COLUMNS)):
        with pytest.raises(Unreadable):
            reading(text)


@pytest.mark.parametrize(
    "text", [*HOSTILE, "text, evil text", "text DEFAULT now()", "serial", "regclass", "char", "TEXT"]
)
def test_a_hostile_type_is_refused(text):
    with pytest.raises(Unreadable):
        read_type(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("USING evil (id)", "evil is not one of brin, btree, gin, gist, hash, spgist"),
        ("USING btree (absent)", "absent is no column"),
        ("USING btree (f_unaccent(title))", "the function f_unaccent is not one that is known here"),
        ("USING btree (id) WITH (evil=1)", "evil is not an option that is known here"),
        ("USING btree (id) WHERE (now() > at)", "the function now is not one that is known here"),
        ("USING btree (id) TABLESPACE fast", "TABLESPACE is not expected there"),
        ("USING btree (id); DROP", "; is not expected there"),
        ("USING btree (id", "the end is not expected there"),
    ],
)
def test_the_sentence_names_the_definition_and_what_is_wrong_with_it(text, reason):
    with pytest.raises(Unreadable) as caught:
        read_index(text, COLUMNS, "the index by_title")
    assert f"the index by_title, {text}: {reason}" == str(caught.value)


def test_a_sentence_of_a_megabyte_is_cut_and_holds_nothing_that_moves_a_cursor():
    with pytest.raises(Unreadable) as caught:
        read_default("\x1b[2J" + "x" * 1_000_000)
    assert str(caught.value).startswith("the default, ?[2Jxxx")
    assert len(str(caught.value)) < 250


def test_the_longest_text_is_read_and_one_more_character_is_not():
    longest = "'" + "x" * (TEXT_CHARACTERS_MAX - 2) + "'"
    assert longest == written(read_default(longest))
    with pytest.raises(Unreadable, match="longer than 8,192 characters"):
        read_default(longest + " ")


def test_the_deepest_nesting_is_read():
    assert "0" in written(read_default("(" * (DEPTH_MAX - 1) + "0" + ")" * (DEPTH_MAX - 1)))


@pytest.mark.parametrize(
    "schema",
    [
        schema_of(dimension="3) ; --"),
        schema_of(dimension=0),
        schema_of(dimension=True),
        schema_of(dimension=4),
        schema_of(element="float8"),
        schema_of(element="float2"),
        schema_of(metric="evil"),
        schema_of(hnsw=(Hnsw("near", "evil"),)),
        schema_of(hnsw=(Hnsw("near", "cosine", m="16); DROP TABLE canary; --"),)),
        schema_of(hnsw=(Hnsw("near", "cosine", m=1),)),
        schema_of(hnsw=(Hnsw("near", "cosine", ef_construction=1001),)),
        schema_of(hnsw=(Hnsw("near", "cosine", ef_construction=64.0),)),
        schema_of(hnsw=(Hnsw("n" * 64, "cosine"),)),
        schema_of(hnsw=(Hnsw(None, "cosine"),)),
        schema_of(indexes=(PlainIndex("é" * 32, "USING btree (id)"),)),
        schema_of(indexes=(PlainIndex("a\0b", "USING btree (id)"),)),
        schema_of(indexes=(PlainIndex("", "USING btree (id)"),)),
        schema_of(indexes=(PlainIndex("i", "USING btree (id)", unique="UNIQUE"),)),
        schema_of(indexes=(PlainIndex("i", "USING btree (id)", primary=1),)),
        schema_of(indexes=(PlainIndex("i", None),)),
        schema_of(indexes=(PlainIndex("i", ["USING btree (id)"]),)),
        with_column(name="\ud800"),
        with_column(name=7),
        with_column(declared=7),
        with_column(declared="integer"),
        with_column(declared="text[]"),
        with_column(declared="bpchar"),
        with_column(kind="time", declared="timestamp without time zone"),
        with_column(nullable="NOT NULL"),
        with_column(default=7),
        with_column(default="title"),
        with_column(default="lower(id)"),
    ],
    ids=repr,
)
def test_a_schema_with_a_part_that_is_none_is_refused(schema):
    with pytest.raises(Unreadable):
        read(schema)


def test_the_schema_that_the_others_differ_from_is_read():
    assert ['USING btree ( "id" )'] == [written(index) for index in read(schema_of()).indexes]


def test_a_list_of_varchars_is_told_as_it_is_told_after_it_was_made_again():
    first = "((t)::text = ANY ((ARRAY['a'::character varying, 'it''s, ]'::character varying])::text[]))"
    again = "((t)::text = ANY (ARRAY[('a'::character varying)::text, ('it''s, ]'::character varying)::text]))"
    assert again == settled(first) == settled(again)
    literal = "(t <> '(ARRAY[''a''::character varying])::text[]'::text)"
    assert literal == settled(literal)


FRAGMENTS = (
    st.sampled_from([*"()[],.;'\"+-*/<>=~$\\:&?@# 017eEuUx\n"])
    | st.sampled_from(
        ["::", "--", "/*", "*/", "''", " OR ", " AND ", "NULL", "lower(", "pg_sleep(", "id", "title", "SELECT 1", "U&"]
    )
    | st.sampled_from(["::text", "::regclass", "nextval(", "CASE ", "ARRAY[", ";DROP", "$$", "é"])
)
TEXTS = st.lists(FRAGMENTS, max_size=12).map("".join)


@st.composite
def mended(draw, of):
    """A good text, in which a piece was replaced by others."""
    text = draw(st.sampled_from(of))
    start = draw(st.integers(0, len(text)))
    return text[:start] + draw(TEXTS) + text[min(len(text), start + draw(st.integers(0, 5))) :]


def holds(statement):
    """Check what must be true of whatever was accepted, by looking at the statement alone."""
    rest = outside(statement)
    assert not re.search(r";|--|/\*|\*/|\$|\\|\n|[^ -~]", rest)
    assert not re.search(r"(?i)\b(select|with\s+\w+\s+as|table|values|copy|do|call|insert|delete|update|drop)\b", rest)
    assert rest.count("(") == rest.count(")")
    assert rest.count("[") == rest.count("]")
    depth = 0
    for mark in re.findall(r"[()]", rest):
        depth += 1 if mark == "(" else -1
        assert depth >= 0
    called = set(re.findall(r"\b([a-z_][\w.]*) *\(", rest)) - {"btree", "hash", "gin", "gist", "spgist", "brin"}
    types = {"varying", "numeric", "vector", "halfvec", "character", "bpchar", "timestamp", "time"}
    assert [] == [name for name in called - types - {"uuid_generate_v4"} if not name.startswith("pg_catalog.")]
    assert not re.search(r"pg_catalog\.(pg_|lo_|dblink|query_to|set_config|current_setting)", rest)


@settings(max_examples=600, deadline=None)
@given(mended(INDEXES) | TEXTS)
@example(INDEXES[22])
def test_no_accepted_index_is_more_than_an_index(text):
    try:
        found = read_index(text, COLUMNS)
    except Unreadable:
        return
    holds(written(found))


@settings(max_examples=600, deadline=None)
@given(mended(DEFAULTS) | TEXTS | st.text(max_size=30))
@example("'it''s; DROP TABLE x; --'::text")
def test_no_accepted_default_is_more_than_an_expression(text):
    try:
        found = read_default(text)
    except Unreadable:
        return
    holds(written(found))


@given(st.text(max_size=60))
def test_a_literal_comes_out_as_it_went_in(value):
    quoted = "'" + value.replace("'", "''") + "'"
    try:
        found = written(read_default(quoted))
    except Unreadable:
        assert "\0" in value or any("\ud800" <= c <= "\udfff" for c in value)
        return
    inner = found.strip()
    if inner.startswith("E"):
        inner = inner[1:].replace("\\\\", "\\")
    assert quoted == inner
