from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from conn_server.settings import ConnSettings
from conn_server.workers.plan import NUMBER, Steps, environment, stop_steps
from runtime.failures import SetupError
from runtime.settings import load

PORT = 8081


def settings(**given: object) -> ConnSettings:
    """Return settings; `srv__listenAddr="a:1"` is what an environment could say."""
    overrides = {name.replace("__", "."): value for name, value in given.items()}
    return load(ConnSettings, None, {}, {"websocket.workers": 3, **overrides}).settings


def of_worker(host: ConnSettings, number: int, environ: dict[str, str] | None = None) -> ConnSettings:
    """Return what a worker makes of its environment."""
    return load(ConnSettings, None, environment(host, number, environ or {}, PORT)).settings


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_worker_has_ports_of_its_own_and_the_client_port_of_all(number: int) -> None:
    worker = of_worker(settings(srv__listenAddr="10.0.0.1:6100"), number)
    assert worker.websocket.bind == ":8081"
    assert worker.websocket.reuse_port
    assert worker.websocket.workers == 1
    assert worker.registration.listen_address == f"10.0.0.1:{6100 + number}"
    assert worker.registration.advertised() == f"10.0.0.1:{6100 + number}"
    # The supervisor has 7100.
    assert worker.admin.bind == f"127.0.0.1:{7101 + number}"


def test_what_others_dial_and_where_to_ask_for_health_are_counted_up_as_well() -> None:
    host = settings(srv__advertiseAddr="chat.example:16000", admin__bind="[::1]:9000")
    worker = of_worker(host, 2)
    assert worker.registration.advertised() == "chat.example:16002"
    assert worker.admin.bind == "[::1]:9003"


def test_port_0_stays_any_free_one() -> None:
    worker = of_worker(settings(srv__listenAddr="127.0.0.1:0", admin__bind=":0"), 2)
    assert worker.registration.listen_address == "127.0.0.1:0"
    assert worker.admin.bind == ":0"
    worker = of_worker(settings(srv__listenAddr="127.0.0.1:0"), 2)
    assert worker.admin.bind == "127.0.0.1:0"


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", ":0", "localhost:1"])
def test_client_address_keeps_its_host_and_gets_the_port_that_was_found(bind: str) -> None:
    assert of_worker(settings(websocket__bind=bind), 0).websocket.bind == f"{bind.rpartition(':')[0]}:8081"


def test_what_the_environment_says_about_the_same_settings_is_replaced_in_every_spelling() -> None:
    """A worker that was told `workers` in small letters would have started workers, and they theirs."""
    environ = {
        "ROOMCAST_websocket__workers": "3",
        "ROOMCAST_WEBSOCKET__WORKERS": "3",
        "ROOMCAST_SRV__LISTEN_ADDR": "127.0.0.1:6500",
        "ROOMCAST_RULES__POST_ANYWHERE": "true",
        "ROOMCAST_TOKEN_SECRET": "secret",
        "CREDENTIALS_DIRECTORY": "/run/credentials",
    }
    told = environment(settings(srv__listenAddr="127.0.0.1:6500"), 1, environ, PORT)
    worker = load(ConnSettings, None, {**told, "CREDENTIALS_DIRECTORY": ""}).settings
    assert worker.websocket.workers == 1
    assert worker.registration.listen_address == "127.0.0.1:6501"
    assert worker.rules.post_anywhere
    assert told["ROOMCAST_TOKEN_SECRET"] == "secret"
    assert told["CREDENTIALS_DIRECTORY"] == "/run/credentials"
    assert told[NUMBER] == "1"


@pytest.mark.parametrize("key", ["srv__listenAddr", "srv__advertiseAddr", "admin__bind"])
def test_port_that_cannot_be_is_one_line_for_the_operator(key: str) -> None:
    host = settings(**{key: "127.0.0.1:65534"})
    with pytest.raises(SetupError, match=r"127.0.0.1:65534: there is no port 6553[67] for .* workers"):
        environment(host, 2, {}, PORT)


def test_admin_port_that_cannot_be_is_any_free_one_as_without_workers() -> None:
    assert of_worker(settings(srv__listenAddr="127.0.0.1:64534"), 0).admin.bind == "127.0.0.1:65535"
    assert of_worker(settings(srv__listenAddr="127.0.0.1:64534"), 1).admin.bind == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("workers", "interval_s", "timeout_s", "steps"),
    [
        (4, 1.0, 20.0, Steps(1.0, 16.0)),
        (2, 1.0, 20.0, Steps(1.0, 18.0)),
        (1, 1.0, 20.0, Steps(1.0, 19.0)),
        (21, 1.0, 20.0, Steps(0.5, 9.0)),  # the pauses take half at most
        (2, 10.0, 2.0, Steps(1.0, 0.5)),
    ],
)
def test_stops_of_all_workers_fit_into_one_drain(
    workers: int, interval_s: float, timeout_s: float, steps: Steps
) -> None:
    assert stop_steps(workers, interval_s, timeout_s) == steps


@given(st.integers(1, 64), st.floats(0.001, 100), st.floats(0.01, 1000))
def test_last_worker_is_done_before_the_deadline(workers: int, interval_s: float, timeout_s: float) -> None:
    steps = stop_steps(workers, interval_s, timeout_s)
    assert 0 < steps.interval_s <= interval_s
    assert steps.timeout_s >= timeout_s / 4 * (1 - 1e-9)
    assert (workers - 1) * steps.interval_s + steps.timeout_s < timeout_s
