from __future__ import annotations

from pathlib import Path

import pytest

from conn_server.settings import ConnSettings
from deploy.cluster.plan import Plan, make_plan
from job_worker.settings import JobSettings
from logic_server.settings import LogicSettings
from runtime.sections import ServiceSettings
from runtime.settings import load

SECRET = "s" * 64


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = make_plan(tmp_path, "python", SECRET, lambda wanted: wanted)
    for path, text in plan.files.items():
        path.write_text(text)
    return plan


def settings(plan: Plan, name: str, settings_type: type[ServiceSettings]) -> ServiceSettings:
    """Load what the part `name` would load, from its file and its environment."""
    (part,) = (part for part in plan.parts if part.name == name)
    return load(settings_type, Path(part.command[-1]), part.environ).settings


def test_queue_and_registry_come_first_and_what_needs_them_after(plan: Plan) -> None:
    assert [[part.name for part in stage] for stage in plan.stages] == [
        ["etcd", "nsqd"],
        ["logic-1", "logic-2"],
        ["conn-1", "conn-2"],
        ["job-1"],
    ]


def test_there_are_as_many_of_a_kind_as_are_wanted(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "python", SECRET, lambda wanted: wanted, conns=1, logics=3)
    names = [part.name for part in plan.parts]
    assert names == ["etcd", "nsqd", "logic-1", "logic-2", "logic-3", "conn-1", "job-1"]


def test_conn_servers_serve_on_ports_of_their_own_and_can_make_tokens(plan: Plan) -> None:
    for name, client, grpc in (
        ("conn-1", "127.0.0.1:8081", "127.0.0.1:6000"),
        ("conn-2", "127.0.0.1:8082", "127.0.0.1:6010"),
    ):
        conn = settings(plan, name, ConnSettings)
        assert isinstance(conn, ConnSettings)
        assert (conn.websocket.bind, conn.registration.listen_address) == (client, grpc)
        assert conn.token.issue
        assert conn.http.demo
        assert conn.token.require_key() == SECRET.encode()
        assert conn.etcd.addrs == ("127.0.0.1:2379",)


def test_logic_servers_and_job_worker_share_the_queue_and_only_logic_knows_the_secret(plan: Plan) -> None:
    logic, job = settings(plan, "logic-2", LogicSettings), settings(plan, "job-1", JobSettings)
    assert isinstance(logic, LogicSettings)
    assert isinstance(job, JobSettings)
    assert logic.nsq.addresses == job.nsq.addresses == ("127.0.0.1:4150",)
    assert logic.registration.listen_address == "127.0.0.1:6011"
    assert logic.token.require_key() == SECRET.encode()
    assert "ROOMCAST_TOKEN_SECRET" not in plan.parts[-1].environ


def test_each_part_is_asked_where_it_answers(plan: Plan) -> None:
    assert {part.name: (part.address, part.has_readyz) for part in plan.parts} == {
        "etcd": ("127.0.0.1:2379", False),
        "nsqd": ("127.0.0.1:4151", False),
        "logic-1": ("127.0.0.1:7001", True),
        "logic-2": ("127.0.0.1:7011", True),
        "conn-1": ("127.0.0.1:7000", True),
        "conn-2": ("127.0.0.1:7010", True),
        "job-1": ("127.0.0.1:7002", True),
    }


def test_secret_stands_in_no_file_and_no_command(plan: Plan) -> None:
    assert not any(SECRET in text for text in plan.files.values())
    assert not any(SECRET in " ".join(part.command) for part in plan.parts)
