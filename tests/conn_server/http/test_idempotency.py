from __future__ import annotations

from hypothesis import given, strategies as st

from conn_server.http.idempotency import ReplayWindow, digest_of

WINDOW_S = 120.0


def window(max_keys: int = 100) -> ReplayWindow[str, str]:
    return ReplayWindow(WINDOW_S, max_keys)


def succeed(replays: ReplayWindow[str, str], digest: bytes, answer: str, now: float) -> None:
    replays.start(digest, "run")
    replays.finish(digest, answer, now)


def test_success_is_answered_again_within_the_window_and_no_longer() -> None:
    replays = window()
    succeed(replays, b"a", "suc", 10.0)
    assert replays.replay(b"a", 10.0) == "suc"
    assert replays.replay(b"a", 10.0 + WINDOW_S - 0.001) == "suc"
    assert replays.replay(b"a", 10.0 + WINDOW_S) is None
    assert replays.statistics().remembered == 0
    assert replays.statistics().replayed == 2


def test_failure_is_not_remembered() -> None:
    replays = window()
    replays.start(b"a", "run")
    replays.finish(b"a", None, 10.0)
    assert replays.replay(b"a", 10.0) is None
    assert replays.running(b"a") is None


def test_request_under_way_can_be_found_by_others() -> None:
    replays = window()
    assert replays.running(b"a") is None
    replays.start(b"a", "first")
    assert replays.running(b"a") == "first"
    assert replays.running(b"b") is None
    assert replays.statistics().running == 1


def test_over_the_limit_the_oldest_success_is_forgotten_and_counted() -> None:
    replays = window(max_keys=2)
    for number, digest in enumerate((b"a", b"b", b"c")):
        succeed(replays, digest, digest.decode(), float(number))
    assert replays.replay(b"a", 3.0) is None
    assert replays.replay(b"b", 3.0) == "b"
    assert replays.replay(b"c", 3.0) == "c"
    assert replays.statistics().forgotten_early == 1


def test_what_has_expired_makes_room_without_being_counted() -> None:
    replays = window(max_keys=1)
    succeed(replays, b"a", "a", 0.0)
    succeed(replays, b"b", "b", WINDOW_S)
    assert replays.statistics().forgotten_early == 0


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans(), st.floats(0, 50)), max_size=60))
def test_memory_is_bounded_and_a_replay_is_always_a_recent_success(
    requests: list[tuple[str, bool, float]],
) -> None:
    replays, now = window(max_keys=3), 0.0
    succeeded: dict[str, float] = {}
    for name, succeeds, later in requests:
        now += later
        digest = name.encode()
        if replays.replay(digest, now) is not None:
            assert now - succeeded[name] < WINDOW_S
            continue
        replays.start(digest, name)
        replays.finish(digest, name if succeeds else None, now)
        if succeeds:
            succeeded[name] = now
            assert replays.replay(digest, now) == name
        assert replays.statistics().remembered <= 3


def test_keys_of_different_callers_are_different_keys() -> None:
    pairs = [("7", "k"), ("8", "k"), ("7", "kk"), ("7k", ""), ("", "7k"), ("7", "\udcff")]
    assert len({digest_of(caller, key) for caller, key in pairs}) == len(pairs)
    assert digest_of("7", "k") == digest_of("7", "k")
    assert len(digest_of("7", "k" * 1000)) == 16
