from __future__ import annotations

import pytest

from tests.integration.soak import growth, judge


def test_growth_is_seen_behind_the_warm_up_and_apart_from_spikes() -> None:
    flat = [10.0, 50.0, 90.0, 100.0, *[100.0] * 5, 400.0, *[100.0] * 6]
    assert growth(flat) == (100, 100)
    assert growth([float(number) for number in range(100)]) == (49.5, 89.5)


def test_what_grows_beyond_what_is_allowed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    flat, growing = [40.0] * 50, [40.0 + number for number in range(50)]
    assert judge({("conn-1", "files"): flat})
    assert not judge({("conn-1", "files"): flat, ("job-1", "tasks"): growing})
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown if line.endswith("GROWN")] == ["job-1"]
