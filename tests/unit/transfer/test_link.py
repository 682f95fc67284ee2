from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from understudy.transfer.link import CoderMeter, LinkMeter, choose, free_cores

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.transfer.link import Effort

MB = 1e6
RATES: dict[Effort, float] = {"raw": 1000 * MB, "fast": 400 * MB, "dense": 100 * MB}
RATIOS: dict[Effort, float] = {"raw": 1.0, "fast": 0.3, "dense": 0.25}


def effort(link: float, *, cores: float = 2.0, current: Effort | None = None) -> Effort:
    return choose(
        link_bytes_per_second=link * MB, cores=cores, coder_rates=RATES, ratios=RATIOS, current=current
    ).effort


def test_nothing_known_is_fast() -> None:
    found = choose(link_bytes_per_second=None, cores=2)
    assert ("fast", "fast: the link is not measured yet") == (found.effort, found.reason)


@pytest.mark.parametrize(
    ("link", "cores", "expected"),
    [(0.1, 2, "dense"), (12, 2, "dense"), (49, 2, "dense"), (90, 2, "fast"), (500, 2, "fast"), (500, 32, "dense")],
)
def test_a_slow_link_is_dense_and_one_that_outruns_the_dense_coder_is_not(
    link: float, cores: float, expected: Effort
) -> None:
    """At two cores the dense coder gives 50 MB/s of coded bytes."""
    assert expected == effort(link, cores=cores)


def test_bytes_go_as_they_are_only_where_that_is_three_times_as_quick() -> None:
    rates: dict[Effort, float] = {"raw": 4000 * MB, "fast": 400 * MB, "dense": 100 * MB}
    found = [
        choose(link_bytes_per_second=link * MB, cores=1, coder_rates=rates, ratios=RATIOS).effort
        for link in (1000, 1199, 1201, 9000)
    ]
    assert ["fast", "fast", "raw", "raw"] == found


def test_a_choice_does_not_swing_with_a_link_that_does() -> None:
    """Where dense and fast end together, which is in force stays."""
    border = 60.0  # dense needs 1/200 s for a MB, fast 0.3/60
    assert ("dense", "fast") == (effort(border - 1), effort(border + 1))
    for link in (border - 5, border - 1, border + 1, border + 5):
        assert ("dense", "fast") == (effort(link, current="dense"), effort(link, current="fast"))
    assert ("fast", "dense") == (effort(border * 1.3, current="dense"), effort(border / 1.3, current="fast"))


def test_the_reason_tells_the_figures() -> None:
    found = choose(link_bytes_per_second=12 * MB, cores=2, coder_rates={"dense": 170 * MB})
    assert "dense: link 12 MB/s, coders 340 MB/s on 2 cores" == found.reason
    assert choose(link_bytes_per_second=3e9, cores=1).reason.endswith("on 1 core")


def test_more_uploads_where_one_alone_is_slow_and_within_memory() -> None:
    def uploads(connection: float) -> int:
        return choose(
            link_bytes_per_second=3 * connection * MB,
            cores=2,
            coder_rates=RATES,
            ratios=RATIOS,
            connection_bytes_per_second=connection * MB,
        ).uploads

    assert [6, 5, 3, 2, 2] == [uploads(connection) for connection in (5, 50, 100, 300, 5000)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_meter_measures_uploads_side_by_side_and_not_the_time_between_them() -> None:
    clock = Clock()
    meter = LinkMeter(clock=clock)
    assert (None, None) == (meter.bytes_per_second, meter.connection_bytes_per_second)
    for _ in range(2):
        with meter.passing(32_000_000), meter.passing(32_000_000):
            clock.now += 2.0
        clock.now += 500.0
    assert (32 * MB, 16 * MB) == (meter.bytes_per_second, meter.connection_bytes_per_second)


def test_an_upload_that_fails_leaves_its_time_and_no_bytes() -> None:
    clock = Clock()
    meter = LinkMeter(clock=clock)

    def fail() -> None:
        with meter.passing(32_000_000):
            clock.now += 1.0
            message = "lost"
            raise ValueError(message)

    with pytest.raises(ValueError, match="lost"):
        fail()
    with meter.passing(32_000_000):
        clock.now += 1.0
    assert 16 * MB == meter.bytes_per_second


def test_a_meter_follows_a_link_that_changes() -> None:
    clock = Clock()
    meter = LinkMeter(clock=clock)
    for seconds in [1.0] * 20 + [4.0] * 20:
        with meter.passing(40_000_000):
            clock.now += seconds
    assert pytest.approx(10 * MB, rel=0.05) == meter.bytes_per_second


def test_coders_are_measured_by_effort_once_enough_has_passed() -> None:
    meter = CoderMeter()
    meter.coded("dense", 1_000_000, 250_000, 0.01)
    assert ({}, {}) == (meter.rates, meter.ratios)
    meter.coded("dense", 9_000_000, 2_250_000, 0.09)
    assert ({"dense": pytest.approx(100 * MB)}, {"dense": 0.25}) == (meter.rates, meter.ratios)


@pytest.mark.parametrize(("quota", "expected"), [("50000 100000", 0.5), ("max 100000", None), ("nonsense", None)])
def test_a_containers_quota_is_heeded(tmp_path: Path, quota: str, expected: float | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    without = free_cores(quota_file=tmp_path / "absent")
    assert without >= 1
    assert (expected or without) == free_cores(quota_file=tmp_path / "cpu.max")
