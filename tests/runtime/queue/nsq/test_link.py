"""Pauses between attempts."""

from __future__ import annotations

from hypothesis import given, strategies as st

from runtime.queue.nsq.link import Backoff


def test_pause_doubles_up_to_its_cap_and_starts_over() -> None:
    backoff = Backoff(0.05, 1.0)
    assert [backoff.pause_s(1) for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert backoff.pause_s(1) == 0.05


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_chance_shortens_a_pause_to_no_less_than_its_half(chances: list[float]) -> None:
    backoff = Backoff(0.05, 1.0)
    pauses = [backoff.pause_s(chance) for chance in chances]
    assert all(0.025 <= pause <= 1.0 for pause in pauses)
