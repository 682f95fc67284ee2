from __future__ import annotations

import base64
import io
import json
import logging
import pickle
from urllib.parse import quote

import pytest

from tests.unit.example import example
from understudy import secrets
from understudy.clouds import aws
from understudy.errors import InvalidConfig, Unreachable
from understudy.redaction import forms_of, redact, watch_logs
from understudy.secrets import Secret, resolve
from understudy.settings import Settings

TEXT = "hunter2 & a+long/one"


def test_a_reference_leads_to_the_environment_a_file_or_a_reader_of_its_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD", TEXT)
    (tmp_path / "secret").write_text(f"{TEXT}\n", encoding="utf-8")
    monkeypatch.setitem(secrets.resolvers, "block", {"secret/index": TEXT}.__getitem__)
    found = [resolve(one).reveal() for one in ("env:PASSWORD", f"file:{tmp_path}/secret", "block:secret/index")]
    assert [TEXT] * 3 == found


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("env:ABSENT", "the environment variable ABSENT is not set"),
        ("file:/absent", "the secret file /absent cannot be read: No such file"),
        ("block:secret/index", "a block: secret cannot be read here. Outside Prefect use env: or file:"),
    ],
)
def test_a_secret_that_is_not_there_is_one_sentence(reference, words, monkeypatch):
    monkeypatch.setattr(secrets, "resolvers", {})
    with pytest.raises(InvalidConfig, match=words):
        resolve(reference)


def test_a_file_that_is_empty_or_no_text_is_said_and_not_shown(tmp_path):
    (tmp_path / "empty").write_text(" \n", encoding="utf-8")
    (tmp_path / "bytes").write_bytes(b"hunter\xff\xfe")
    with pytest.raises(InvalidConfig, match="is empty"):
        resolve(f"file:{tmp_path}/empty")
    with pytest.raises(InvalidConfig, match="is not text in UTF-8") as caught:
        resolve(f"file:{tmp_path}/bytes")
    assert "hunter" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_a_secret_shows_itself_nowhere():
    secret = Secret(TEXT)
    assert ["Secret(...)"] * 3 == [str(secret), repr(secret), f"{secret}"]
    assert "Secret(...)" == f"{secret!r:}"
    assert "['Secret(...)']" == str([str(secret)])
    with pytest.raises(TypeError, match="is not stored"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps({"password": secret})


def test_no_error_shows_what_was_resolved_in_any_form(monkeypatch):
    monkeypatch.setenv("PASSWORD", TEXT)
    resolve("env:PASSWORD")
    basic = base64.b64encode(f"me:{TEXT}".encode()).decode()
    for shown in (TEXT, quote(TEXT, safe=""), basic, json.dumps(TEXT)):
        error = Unreachable(f"it said {shown}", hint=f"not {shown}")
        for form in forms_of(TEXT):
            assert form not in f"{error} {error.message} {error.hint} {error.args}"
    assert "it said ***" == Unreachable(f"it said {TEXT}").message


def test_words_without_a_secret_stay_as_they_are():
    assert "nothing of it" == redact("nothing of it")
    Secret("short")
    assert "a short word" == redact("a short word"), "a short secret would be found inside of words"


@pytest.mark.parametrize("key", ["AccessKeyId", "SecretAccessKey", "SessionToken"])
def test_keys_with_a_line_break_are_refused_before_a_header_shows_them(key):
    whole = {"AccessKeyId": "AKIAX", "SecretAccessKey": "secret-text", "SessionToken": "token-text"}
    with pytest.raises(InvalidConfig, match="Look for line breaks") as caught:
        aws.read_credentials(json.dumps(whole | {key: "one\ntwo"}), "env:KEYS")
    assert "one" not in str(caught.value).replace("one of", "")
    assert ("AKIAX", "secret-text", None) == aws.read_credentials(
        json.dumps({"AccessKeyId": "AKIAX\n", "SecretAccessKey": "secret-text\n"}), "env:KEYS"
    )


def test_every_reference_of_a_config_is_found():
    settings = Settings.model_validate(
        example(
            **{
                "sites.home.credentials": "env:A",
                "sites.away.credentials": "file:/b",
                "register.credentials": "env:C",
                "traffic.credentials": "env:D",
                "alerts": {"url": "route53-health-check://1", "credentials": "env:E"},
                "vault.sign_with": "env:F",
                "components.vector_index.pairs.0.password": "env:G",
                "metrics": {"ping": "env:H"},
                "notify": ["block:slack-webhook/i"],
            }
        )
    )
    expected = ["env:A", "file:/b", "env:C", "env:D", "env:E", "env:F", "env:G", "env:H", "block:slack-webhook/i"]
    assert expected == [reference for _, reference in settings.references()]


def fail(words):
    raise LookupError(words)


@pytest.mark.parametrize("name", ["understudy", "understudy.failover", "prefect.task_runs", "an.sdk"])
def test_no_log_line_and_no_traceback_shows_what_was_resolved_whoever_logs(name):
    Secret(TEXT)
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        try:
            fail(f"no such key: {TEXT}")
        except LookupError as error:
            logger.warning("%s was not possible: %s", "this", error, exc_info=True)
        logger.error("in the words: " + quote(TEXT, safe=""))  # noqa: G003 - as an SDK may
        logger.error({"as": TEXT})
        logger.error("in %(a)s", {"a": TEXT}, stack_info=True)
    finally:
        logger.removeHandler(handler)
    shown = lines.getvalue()
    assert [] == [form for form in forms_of(TEXT) if form in shown]
    assert "this was not possible: no such key: ***\nTraceback (most recent call last)" in shown
    assert "in the words: ***\n{'as': '***'}\nin ***\nStack" in shown


def test_a_log_line_without_a_secret_keeps_its_words_and_its_arguments(caplog):
    Secret(TEXT)
    try:
        fail("nothing of it")
    except LookupError:
        logging.getLogger("understudy.x").exception("%d of %s", 4, "all")
    (record,) = caplog.records
    assert ("%d of %s", (4, "all")) == (record.msg, record.args)
    assert record.exc_info[0] is LookupError


def test_words_that_do_not_fit_their_arguments_still_make_a_record():
    watch_logs()
    record = logging.getLogRecordFactory()("understudy", 30, "x", 1, f"%d {TEXT}", ("x",), None)
    assert record.msg.startswith("%d ")
    before = logging.getLogRecordFactory()
    watch_logs()
    assert before is logging.getLogRecordFactory()
