"""URLs become adapters, a third party's too; what cannot be opened is said in one sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from understudy import opening
from understudy.errors import InvalidConfig, Unsupported
from understudy.objects.file import FileStore
from understudy.settings import Access

TINY = """
from understudy.objects.memory import MemoryStore

class TinyStore(MemoryStore):
    pass

def open_store(url, access, password):
    if "wrong" in url:
        raise KeyError("not one of understudy's errors")
    store = TinyStore()
    store.opened = url, access.region, password
    return store
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that brings ``objects.tiny``, laid out as an installer leaves it."""
    (tmp_path / "tiny_adapter.py").write_text(TINY)
    info = tmp_path / "tiny_adapter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-adapter\nVersion: 1.0\n")
    points = "objects.tiny = tiny_adapter:open_store\nvectors.broken = no_such_package:open\nodd = tiny_adapter:x\n"
    (info / "entry_points.txt").write_text(f"[understudy.adapters]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("tiny_adapter", None)


@pytest.mark.usefixtures("installed")
def test_a_third_partys_adapter_is_opened_by_its_entry_point():
    store = opening.open_store("tiny://place/below", Access(region="eu-west-1"))
    assert "TinyStore" == type(store).__name__
    assert ("tiny://place/below", "eu-west-1", None) == store.opened
    assert b"x" == store.get(store.create("a", b"x").key)


@pytest.mark.usefixtures("installed")
def test_an_entry_point_of_one_noun_is_not_taken_for_another():
    with pytest.raises(InvalidConfig, match=r"tiny://t is not an online feature store that is known here"):
        opening.open_features("tiny://t", Access())


@pytest.mark.usefixtures("installed")
def test_a_third_partys_scheme_is_offered_beside_the_known_ones():
    assert "s3://bucket/prefix or gs://bucket/prefix or file:///folder or tiny://..." == opening.forms("objects")
    assert {
        ("objects", "tiny"): "tiny_adapter:open_store",
        ("vectors", "broken"): "no_such_package:open",
    } == opening.third_parties()


@pytest.mark.usefixtures("installed")
def test_a_third_partys_own_fault_is_a_sentence_that_names_it():
    with pytest.raises(Unsupported, match=r"the adapter tiny_adapter:open_store could not open tiny://: KeyError"):
        opening.open_store("tiny://wrong", Access())


def test_an_unknown_scheme_says_which_are_known():
    with pytest.raises(InvalidConfig, match=r"ftp://x is not an object store.*Write s3://bucket/prefix or gs://"):
        opening.open_store("ftp://x", Access())


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {modules}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from understudy import opening
from understudy.errors import Unsupported
from understudy.settings import Access
try:
    opening.{call}
except Unsupported as error:
    print(error.next_command)
"""


@pytest.mark.parametrize(
    ("modules", "extra", "call"),
    [
        (("boto3", "botocore"), "aws", "open_store('s3://bucket', Access())"),
        (("google", "grpc"), "gcp", "open_store('gs://bucket', Access(cloud='gcp'))"),
        (("google", "grpc"), "gcp", "open_features('bigtable://p/i/t', Access(cloud='gcp'))"),
        (("psycopg",), "postgres", "open_vectors('pgvector://u@h/d?table=t', Access())"),
        (("redis",), "redis", "open_features('redis://h:1/0?prefix=p', Access())"),
    ],
)
def test_a_missing_package_is_one_sentence_with_the_extra(modules, extra, call):
    """In a process of its own, as if the package had never been installed."""
    code = WITHOUT.format(modules=modules, call=call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install 'understudy[{extra}]'" == done.stdout.strip()


def test_a_url_without_its_parts_says_how_it_is_written():
    for call in (
        lambda: opening.open_features("bigtable://project/instance", Access(cloud="gcp")),
        lambda: opening.open_store("s3", Access()),
    ):
        with pytest.raises(InvalidConfig, match="Write "):
            call()


def test_a_folder_needs_no_package(tmp_path):
    assert isinstance(opening.open_store(f"file://{tmp_path}", Access()), FileStore)
