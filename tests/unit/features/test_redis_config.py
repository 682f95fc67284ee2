from __future__ import annotations

import pytest

from understudy.errors import InvalidConfig
from understudy.features.redis import RedisConfig


def test_a_url_names_all_that_is_needed() -> None:
    config = RedisConfig.from_url("rediss://ser%40ving@cache.acme:6380/3?prefix=acme:features&ca=/etc/ca.pem")
    assert ("cache.acme", 6380, 3, "acme:features") == (config.host, config.port, config.database, config.prefix)
    assert ("ser@ving", True, "/etc/ca.pem") == (config.user, config.tls, config.ca)


def test_what_a_url_leaves_out_is_as_usual() -> None:
    config = RedisConfig.from_url("redis://cache?prefix=features", password="word")
    assert (6379, 0, None, False, None) == (config.port, config.database, config.user, config.tls, config.ca)
    assert "word" == config.password
    assert "word" not in repr(config)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://cache/0", "names no prefix"),
        ("redis://cache/0?prefix=a*", "names no prefix of letters"),
        ("redis://cache/0?prefix=", "names no prefix"),
        ("redis:///0?prefix=a", "names no host"),
        ("redis://cache/first?prefix=a", "is no address of Redis"),
        ("redis://cache:port/0?prefix=a", "is no address of Redis"),
        ("redis://cache/0?prefix=a&cluster=yes", "knows no option cluster"),
    ],
)
def test_a_url_that_says_too_little_or_too_much_is_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidConfig, match=words) as refused:
        RedisConfig.from_url(url)
    assert "redis://host:6379/0?prefix=features" in refused.value.hint


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(InvalidConfig) as refused:
        RedisConfig.from_url("redis://me:planted@cache/first?prefix=a")
    assert "planted" not in str(refused.value)
    assert "redis://me@cache/first" in str(refused.value)
