from __future__ import annotations

from pathlib import Path

import pytest

from job_worker.settings import JobSettings
from runtime.sections import Etcd
from runtime.settings import SettingsError, describe, load
from tests.runtime.queue.unreachable import UNREACHABLE

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "deploy" / "examples" / "job.toml"
GO_EXAMPLE = ROOT / "tests" / "vectors" / "go" / "job-example.toml"


def test_example_shows_every_key_with_its_default() -> None:
    loaded = load(JobSettings, EXAMPLE, {})
    assert loaded.settings == JobSettings()
    unsaid = [line for line in describe(loaded).splitlines() if line.endswith("# default")]
    assert unsaid == []


def test_go_systems_example_starts_us_unchanged() -> None:
    loaded = load(JobSettings, GO_EXAMPLE, {})
    assert loaded.settings == JobSettings(etcd=Etcd(addrs=("127.0.0.1:2379",)))
    assert loaded.without_meaning == ("rpc.prefix",)


def test_defaults_are_the_contracts() -> None:
    settings = JobSettings()
    room = settings.room
    assert (room.batch, room.signal_s, room.idle_s, room.max_bytes) == (20, 1.0, 600.0, 65536)
    assert (settings.nsq.topic, settings.nsq.channel) == ("chat_room", "room_job")
    assert (settings.lane.max_batches, settings.lane.max_bytes, settings.lane.detach_after_s) == (
        64,
        8 << 20,
        8.0,
    )
    assert settings.rpc.conn_service == "room_conn"
    assert settings.rpc.conns == ("127.0.0.1:6000",)
    assert settings.registration.listen_address == "127.0.0.1:6002"


def test_keys_of_the_go_system_without_meaning_are_accepted() -> None:
    given: dict[str, object] = {"room.maxBufferSize": 4096, "conn.routineChan": 1024, "conn.routineSize": 32}
    loaded = load(JobSettings, None, {}, given)
    assert loaded.settings == JobSettings()
    assert set(loaded.without_meaning) == set(given)


def test_channel_of_a_go_job_can_be_taken_over() -> None:
    assert (
        load(JobSettings, None, {"ROOMCAST_NSQ__CHANNEL": "room_job_6002"}).settings.nsq.channel
        == "room_job_6002"
    )


def test_message_timeout_is_what_nsqd_allows() -> None:
    with pytest.raises(SettingsError, match=r"nsq\.msgTimeout: must be 1s at least"):
        load(JobSettings, None, {}, {"nsq.msgTimeout": "500ms"})


@pytest.mark.parametrize("given", [{"room.maxBytes": "8MiB"}, {"room.maxBytes": "3MiB", "room.batch": 5000}])
def test_batch_that_no_conn_server_could_take_is_refused(given: dict[str, object]) -> None:
    """Each ended the stream of every conn server, with all that was on it, and was then tried again."""
    with pytest.raises(SettingsError, match=r"room\.maxBytes: .* what a conn server takes at once"):
        load(JobSettings, None, {}, given)


def test_batch_of_many_small_messages_is_taken() -> None:
    given = {"room.maxBytes": "3MiB", "room.batch": 1000}
    assert load(JobSettings, None, {}, given).settings.room.batch == 1000
    assert load(JobSettings, None, {}, {"room.batch": 1_000_000}).settings.room.batch == 1_000_000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls.keyFile": "b.pem"}, "tls.certFile and keyFile: one needs the other"),
        ({"tls.clientAuth": True}, "tls.clientAuth is not a setting"),  # it is dialled by nobody
        ({"nsq.serverName": "nsqd.example"}, "nsq.tls: must be true where caFile"),
        ({"nsq.serverName": "nsqd..example", "nsq.tls": True}, "nsq.serverName: no name of a host"),
        ({"tls.serverName": ".example", "tls.caFile": "a.pem"}, "tls.serverName: no name of a host"),
        ({"nsq.tls": True, "nsq.msgTimeout": "500ms"}, "nsq.msgTimeout: must be 1s at least"),
    ],
)
def test_contradictions_about_tls_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(JobSettings, None, {}, given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *UNREACHABLE,
        ({"nsq.channel": "a b"}, "nsq.channel: not 1 to 64 of letters"),
        ({"nsq.channel": ""}, "nsq.channel: not 1 to 64 of letters"),
        ({"nsq.lookupd": ["nsqlookupd:0"]}, "nsq.lookupd: expected an address with a host and a port"),
    ],
)
def test_queue_that_could_not_be_reached_is_refused(given: dict[str, object], message: str) -> None:
    """Each of these once ended in a traceback, or in a service that ran and did nothing."""
    with pytest.raises(SettingsError) as caught:
        load(JobSettings, None, {}, given)
    assert message in str(caught.value)


def test_nsqlookupd_is_enough_to_find_a_queue() -> None:
    given: dict[str, object] = {"nsq.addr": [], "nsq.lookupd": ["nsqlookupd:4161"]}
    assert load(JobSettings, None, {}, given).settings.nsq.lookupd == ("nsqlookupd:4161",)
