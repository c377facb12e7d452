from __future__ import annotations

from collections import Counter
from math import inf

from runtime.discovery.answers import Change
from runtime.discovery.entries import entry
from runtime.discovery.known import KnownPeers

GRACE_S = 8.0


def known_of(*addresses: str) -> KnownPeers:
    known = KnownPeers(b"/s/", grace_s=GRACE_S, skipped=Counter())
    known.listed(listing(*addresses), 0.0)
    return known


def listing(*addresses: str) -> dict[bytes, bytes]:
    return dict(entry("s", address) for address in addresses)


def put(address: str) -> Change:
    return Change(*entry("s", address))


def delete(address: str) -> Change:
    return Change(entry("s", address)[0], None)


def test_list_and_changes_make_the_addresses() -> None:
    known = known_of("a:1", "b:1")
    assert known.addresses == {"a:1", "b:1"}
    known.changed([delete("a:1"), put("c:1"), delete("never:1")])
    assert known.addresses == {"b:1", "c:1"}
    assert known.due == inf


def test_what_was_forgotten_is_kept_for_the_grace() -> None:
    known = known_of("a:1", "b:1")
    known.listed(listing("b:1"), 10.0)
    assert known.addresses == {"a:1", "b:1"}
    assert (known.missing, known.due) == (1, 18.0)
    known.drop_due(17.9)
    assert known.addresses == {"a:1", "b:1"}
    known.drop_due(18.0)
    assert known.addresses == {"b:1"}
    assert (known.missing, known.due) == (0, inf)


def test_who_announces_itself_again_stays_and_who_is_deleted_meanwhile_goes() -> None:
    known = known_of("a:1", "b:1")
    known.listed({}, 10.0)
    known.changed([put("a:1"), put("b:1"), delete("b:1")])
    assert known.missing == 0
    known.drop_due(99.0)
    assert known.addresses == {"a:1"}


def test_second_list_does_not_prolong_the_grace() -> None:
    """A watch that fails again and again must not keep the dead for ever."""
    known = known_of("a:1", "b:1")
    known.listed(listing("b:1"), 10.0)
    known.listed({}, 14.0)
    assert (known.due, known.missing) == (18.0, 2)
    known.listed({}, 18.0)
    assert known.addresses == {"b:1"}
    known.listed({}, 22.0)
    assert known.addresses == frozenset()


def test_grace_stands_still_while_etcd_does_not_answer() -> None:
    """etcd is wiped, comes back, and is gone for another minute before anybody was announced again."""
    known = known_of("a:1")
    known.listed({}, 10.0)
    known.silent(12.0)
    known.silent(40.0)
    assert known.due == inf
    known.drop_due(70.0)
    assert known.addresses == {"a:1"}
    known.listed({}, 72.0)
    assert known.addresses == {"a:1"}
    assert known.due == 78.0
    known.drop_due(78.0)
    assert known.addresses == frozenset()


def test_unreadable_entries_are_counted_and_skipped() -> None:
    skipped: Counter[str] = Counter()
    known = KnownPeers(b"/s/", grace_s=GRACE_S, skipped=skipped)
    known.listed({b"/s/a:1": b"nonsense", b"/s/nonsense": b"", **listing("b:1")}, 0.0)
    assert known.addresses == {"a:1", "b:1"}
    known.changed([Change(b"/s/b:1", b"x"), Change(b"/s/", b"{}")])
    assert known.addresses == {"a:1", "b:1"}
    assert skipped == {"value": 2, "key": 2}
    known.listed({b"/s/nonsense": b""}, 1.0)
    known.listed({}, 2.0)
    assert known.missing == 2


def test_two_keys_may_name_one_address() -> None:
    known = known_of("a:1")
    known.changed([Change(b"/s/other:1", b'{"addr":"a:1"}'), delete("a:1")])
    assert known.addresses == {"a:1"}
    known.changed([Change(b"/s/other:1", None)])
    assert known.addresses == frozenset()
