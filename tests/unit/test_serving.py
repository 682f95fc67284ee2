"""After the pointer moved: a CDN of ours is warmed and counts, and instances are asked until they have the version."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from understudy.artifacts.pointer import Pointer, ServedFile
from understudy.errors import Unreachable
from understudy.serving import await_loaded, sentences, warm, warm_urls, was_hit
from understudy.settings import Serving

FILES = {"model.safetensors": bytes(range(256)) * 400, "config.json": b"{}", "a folder/ä#1.txt": b"text"}


def pointer(files=FILES, version="2"):
    served = tuple(
        ServedFile(path, f"m/{version}/{path}", None, None, len(data), hashlib.sha256(data).hexdigest())
        for path, data in sorted(files.items())
    )
    return Pointer("m", version, 1, "digest", served)


@pytest.fixture
def cdn():
    """A cache before an origin of three files: counts what it was asked, keeps ranges, and says hit or miss."""
    state = SimpleNamespace(asked=[], cached=set(), files=dict(FILES), wait=0.0, spans=True, at_once=0, most=0)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with lock:
                state.at_once += 1
                state.most = max(state.most, state.at_once)
            try:
                self.answer()
            finally:
                with lock:
                    state.at_once -= 1

        def answer(self):
            from urllib.parse import unquote

            asked = (self.path, self.headers.get("Range"))
            state.asked.append(asked)
            time.sleep(state.wait)
            data = state.files.get(unquote(self.path).removeprefix("/models/m/2/"))
            if data is None:
                self.send_error(404)
                return
            code = 200
            if asked[1] and state.spans:
                first, last = asked[1].removeprefix("bytes=").split("-")
                data, code = data[int(first) : int(last) + 1], 206
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Cache", "Hit from us" if asked in state.cached else "Miss from us")
            self.end_headers()
            self.wfile.write(data)
            state.cached.add(asked)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/models/{{path}}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def serving(cdn=None, **more):
    return Serving.model_validate(({"warm": [cdn.url]} if cdn else {}) | more)


# ---------------------------------------------------------------------- the CDN


def test_every_served_file_is_asked_for_once_and_is_a_hit_after(cdn):
    first, again = warm(serving(cdn), pointer()), warm(serving(cdn), pointer())
    assert (3, 3, 0, 3, ()) == (first.urls, first.wanted, first.hits, first.misses, first.failed)
    assert (3, 3, 3, 0, ()) == (again.urls, again.wanted, again.hits, again.misses, again.failed)
    assert sum(len(data) for data in FILES.values()) == first.bytes_read
    assert {1 + 1} == set(Counter(cdn.asked).values())
    assert "warmed 3 of 3 URLs, 102 kB in " in first.sentence
    assert "(0 hit, 3 miss)" in first.sentence


def test_a_url_has_each_part_where_the_config_names_it():
    [(url, _), *_] = warm_urls(["https://c/{model}/v{version}/{file}?p={path}"], pointer())
    assert "https://c/m/v2/a%20folder/%C3%A4%231.txt?p=m/2/a%20folder/%C3%A4%231.txt" == url


def test_a_long_file_is_asked_for_in_the_ranges_that_the_cache_keeps(cdn):
    found = warm(serving(cdn, piece="50kB"), pointer())
    assert (3, ()) == (found.urls, found.failed)
    spans = [span for path, span in cdn.asked if path.endswith("safetensors")]
    assert ["bytes=0-49999", "bytes=50000-99999", "bytes=100000-102399"] == spans


def test_a_cache_that_does_not_take_ranges_is_named(cdn):
    cdn.spans = False
    found = warm(serving(cdn, piece="50kB"), pointer())
    assert 2 == found.urls
    assert "model.safetensors was not read to its end" in found.failed[0]


def test_a_cache_that_gives_old_bytes_is_told_from_one_that_is_warm(cdn):
    cdn.files["config.json"] = b"[]"
    found = warm(serving(cdn), pointer())
    assert 2 == found.urls
    assert found.failed[0].endswith("/m/2/config.json gives other bytes than m/2/config.json: purge it from the cache")


def test_a_missing_file_and_a_dead_cdn_are_said_and_nothing_is_raised(cdn):
    del cdn.files["config.json"]
    found = warm(serving(cdn), pointer())
    assert (2, True) == (found.urls, found.failed[0].endswith("config.json answers 404"))
    dead = warm(serving(warm=["http://127.0.0.1:1/{path}"]), pointer())
    assert (0, 3) == (dead.urls, dead.wanted)
    assert "was not read to its end: URLError" in dead.sentence


def test_warming_ends_with_its_time_and_with_its_bytes(cdn):
    cdn.wait = 0.2
    slow = warm(serving(cdn, at_once=1, warm_for="300ms"), pointer())
    assert slow.urls < 3
    assert "was left out: more than 0.3s" in slow.failed[-1] or "TimeoutError" in slow.failed[-1]
    assert slow.seconds < 2
    cdn.wait = 0.0
    few = warm(serving(cdn, at_once=1, warm_bytes="100kB"), pointer())
    assert 2 == few.urls
    assert "model.safetensors was left out: more than 100 kB" in few.failed[-1]


def test_no_more_urls_are_read_at_once_than_the_config_says(cdn):
    cdn.wait = 0.05
    cdn.files |= {f"part{number}": b"x" for number in range(10)}
    assert 10 == warm(serving(cdn, at_once=2), pointer({f"part{number}": b"x" for number in range(10)})).urls
    assert 2 == cdn.most


@pytest.mark.parametrize(
    ("headers", "hit"),
    [
        ({"X-Cache": ["Hit from cloudfront"]}, True),
        ({"X-Cache": ["RefreshHit from cloudfront"]}, True),
        ({"X-Cache": ["Miss from cloudfront"]}, False),
        ({"X-Cache": ["HIT, MISS"]}, False),
        ({"X-Cache": ["MISS", "HIT"]}, True),
        ({"CF-Cache-Status": ["DYNAMIC"]}, False),
        ({"Age": ["0"]}, False),
        ({"Age": ["31"]}, True),
        ({"Age": ["soon"]}, None),
        ({}, None),
    ],
)
def test_whether_a_cache_answered_is_read_from_what_it_says(headers, hit):
    assert hit is was_hit(headers.get)


# ---------------------------------------------------------------------- the instances


def test_the_time_from_the_pointer_to_the_new_version_is_measured():
    answers = iter(['{"model": "1"}', "starting", '{"model": "1"}', '{"model": "2", "load": {"seconds": 1.25}}'])
    settings = serving(loaded="model", load_seconds="load.seconds")
    began = time.monotonic()
    found = await_loaded(settings, version="2", digest="d", moved=began - 10, ask=lambda: next(answers))
    assert (True, 1.25) == (found.done, found.own_seconds)
    assert 10.7 < found.seconds < 12
    assert "; loaded in 11s (1.2s by its own clock)" == sentences([None, found])


def test_a_digest_names_the_version_too_and_a_service_that_is_down_is_asked_again():
    left = [2]

    def ask():
        if left[0]:
            left[0] -= 1
            raise Unreachable("nobody there")
        return json.dumps({"served": {"digest": "d"}})

    found = await_loaded(serving(loaded="served.digest"), version="2", digest="d", moved=time.monotonic(), ask=ask)
    assert (True, None) == (found.done, found.own_seconds)


def test_a_version_that_never_loads_is_waited_for_no_longer_than_the_config_says():
    settings = serving(loaded="model", loaded_for="300ms")
    found = await_loaded(settings, version="2", digest="d", moved=time.monotonic(), ask=lambda: '{"model": null}')
    assert not found.done
    assert 0.3 <= found.seconds < 2
    assert found.sentence.startswith("2 not loaded after 0.")


def test_nobody_is_asked_where_the_config_names_no_field():
    assert None is await_loaded(serving(), version="2", digest="d", moved=0.0, ask=lambda: pytest.fail("was asked"))


def test_a_url_that_is_none_or_the_same_for_all_files_is_refused():
    for url, words in (("ftp://x/{path}", "no URL over HTTP"), ("https://x/model", "one URL for all files")):
        with pytest.raises(ValueError, match=words):
            serving(warm=[url])
