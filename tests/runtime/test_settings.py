from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import click
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

from runtime.secret import Secret
from runtime.sections import Section
from runtime.settings import SettingsError, check_option, conf_option, describe, load, to_toml
from runtime.units import Duration, Peer, Peers, Seconds, Size


class Room(Section, frozen=True):
    WITHOUT_MEANING: ClassVar[tuple[str, ...]] = ("maxBufferSize",)

    batch: Annotated[int, msgspec.Meta(ge=1)] = 20
    signal_s: Duration = 1.0
    max_bytes: Size = msgspec.field(default=65536, name="maxBytes")
    least: int = 1

    def __post_init__(self) -> None:
        if self.least > self.batch:
            raise ValueError("least: must not be over batch")


class Server(Section, frozen=True):
    listen_address: Peer = msgspec.field(default="127.0.0.1:6000", name="listenAddr")
    ttl_s: Seconds = 5.0
    level: Literal["info", "debug"] = "info"
    demo: bool = False
    rate: float = 0.0
    name: str = "room"
    peers: Peers = ()
    origins: tuple[str, ...] = ()
    secret: Annotated[Secret | None, msgspec.Meta(extra={"secret": "token_secret"})] = None


class Service(Section, frozen=True):
    room: Room = Room()
    server: Server = msgspec.field(default=Server(), name="srv")


class Both(Section, frozen=True):
    """As the all-in-one does: nested services with other defaults, and parts that do not exist there."""

    NOT_HERE: ClassVar[tuple[str, ...]] = ("one.srv", "two.room.batch")

    one: Service = Service(room=Room(batch=7))
    two: Service = Service()


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "service.toml"


def refusal(conf: Path, text: str, environ: dict[str, str] | None = None) -> str:
    conf.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(Service, conf, environ or {})
    return str(caught.value).replace(str(conf), "FILE")


def test_without_a_file_there_are_defaults() -> None:
    loaded = load(Service, None, {})
    assert loaded.settings == Service()
    assert loaded.provenance == {}


def test_file_is_read_with_units(conf: Path) -> None:
    conf.write_text(
        '[room]\nbatch = 5\nsignal = "1m30s"\nmaxBytes = "1MiB"\n[srv]\nttl = 7\npeers = "a:1,b:2"\n'
    )
    settings = load(Service, conf, {}).settings
    assert settings.room == Room(batch=5, signal_s=90.0, max_bytes=1 << 20)
    assert settings.server.ttl_s == 7.0
    assert settings.server.peers == ("a:1", "b:2")


def test_sections_and_keys_are_compared_without_case_and_underscores(conf: Path) -> None:
    conf.write_text("[ROOM]\nBATCH = 5\nmax_bytes = 9\n[Srv]\nLISTENADDR = 'a:1'\n")
    settings = load(Service, conf, {}).settings
    assert (settings.room.batch, settings.room.max_bytes, settings.server.listen_address) == (5, 9, "a:1")


def test_same_key_in_two_spellings_is_refused(conf: Path) -> None:
    assert refusal(conf, "[room]\nbatch = 5\nBatch = 6\n") == "FILE:3: room.Batch was set before, at FILE:2"


def test_later_source_wins(conf: Path) -> None:
    conf.write_text("[room]\nbatch = 5\n")
    environ = {"ROOMCAST_ROOM__BATCH": "6"}
    assert load(Service, conf, {}).settings.room.batch == 5
    assert load(Service, conf, environ).settings.room.batch == 6
    assert load(Service, conf, environ, {"room.batch": 7}).settings.room.batch == 7


@pytest.mark.parametrize(
    ("variable", "text", "read"),
    [
        ("ROOM__BATCH", "6", lambda s: s.room.batch == 6),
        ("ROOM__SIGNAL", "250ms", lambda s: s.room.signal_s == 0.25),
        ("ROOM__SIGNAL", "250000000", lambda s: s.room.signal_s == 0.25),
        ("ROOM__MAXBYTES", "64KiB", lambda s: s.room.max_bytes == 65536),
        ("ROOM__MAX_BYTES", "64", lambda s: s.room.max_bytes == 64),
        ("SRV__DEMO", "true", lambda s: s.server.demo is True),
        ("SRV__RATE", "2", lambda s: s.server.rate == 2.0),
        ("SRV__TTL", "9", lambda s: s.server.ttl_s == 9.0),
        ("SRV__NAME", "7", lambda s: s.server.name == "7"),
        ("SRV__ORIGINS", "a, b", lambda s: s.server.origins == ("a", "b")),
        ("SRV__ORIGINS", "", lambda s: s.server.origins == ()),
        ("SRV__PEERS", '["a:1"]', lambda s: s.server.peers == ("a:1",)),
    ],
)
def test_environment_sets_any_key(variable: str, text: str, read: Any) -> None:
    assert read(load(Service, None, {f"ROOMCAST_{variable}": text}).settings)


def test_variables_that_are_not_for_settings_are_left_alone() -> None:
    assert load(Service, None, {"ROOMCAST_HOME": "x", "OTHER__KEY": "y"}).settings == Service()


def test_unknown_key_is_refused_with_file_line_and_the_nearest_known_one(conf: Path) -> None:
    assert (
        refusal(conf, "[room]\n\nbach = 5\n")
        == "FILE:3: room.bach is not a setting; did you mean room.batch?"
    )
    assert (
        refusal(conf, "[rom]\nbatch = 5\n") == "FILE:2: rom.batch is not a setting; did you mean room.batch?"
    )
    assert refusal(conf, "[srv]\nlistenAdress = 5\n").endswith("did you mean srv.listenAddr?")
    assert refusal(conf, "[zzz]\nqqqqqqqqqq = 5\n") == "FILE:2: zzz.qqqqqqqqqq is not a setting"


def test_section_with_nothing_in_it_is_fine_if_it_is_known(conf: Path) -> None:
    conf.write_text("[room]\n[SRV]\n")
    assert load(Service, conf, {}).settings == Service()
    assert refusal(conf, "[rooms]\n").startswith("FILE: rooms is not a setting")


def test_unknown_variable_is_refused(conf: Path) -> None:
    assert refusal(conf, "", {"ROOMCAST_ROOM__BACH": "5"}) == (
        "environment ROOMCAST_ROOM__BACH: ROOM.BACH is not a setting; did you mean room.batch?"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[room]\nbatch = 'x'", "FILE:2: room.batch: Expected int, got str, got 'x'"),
        ("[room]\nbatch = 0", "FILE:2: room.batch: Expected int >= 1, got 0"),
        ("[room]\nbatch = 1.5", "FILE:2: room.batch: Expected int, got float, got 1.5"),
        ("[srv]\ndemo = 1", "FILE:2: srv.demo: Expected bool, got int, got 1"),
        ("[srv]\nlevel = 'loud'", "FILE:2: srv.level: Invalid enum value 'loud', got 'loud'"),
        ("[srv]\nttl = 'x'", "FILE:2: srv.ttl: expected a number of seconds, got 'x'"),
        ("[srv]\norigins = 'x'", "FILE:2: srv.origins: Expected array, got str, got 'x'"),
        ("[srv]\norigins = [1]", "FILE:2: srv.origins: Expected str, got int - at $[0], got an array"),
        ("room = 1", "FILE:1: room: expected a section, got 1"),
        ("[[room]]\nbatch = 1", "FILE: room: expected a section, got an array"),
        ("[room]\nleast = 21", "FILE: room.least: must not be over batch"),
        ("[room\n", "FILE: Expected ']' at the end of a table declaration (at line 1, column 6)"),
    ],
)
def test_wrong_value_is_refused_with_what_was_expected(conf: Path, text: str, message: str) -> None:
    assert refusal(conf, text) == message


def test_address_to_dial_needs_a_host(conf: Path) -> None:
    assert "srv.listenAddr: expected an address with a host" in refusal(conf, "[srv]\nlistenAddr = ':6000'")


def test_file_that_is_not_there_or_not_text_is_refused(conf: Path) -> None:
    with pytest.raises(SettingsError, match=r"service\.toml: No such file or directory"):
        load(Service, conf, {})
    conf.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"service\.toml: 'utf-8' codec"):
        load(Service, conf, {})


def test_keys_without_meaning_are_accepted_and_told(conf: Path) -> None:
    conf.write_text("[room]\nMaxBufferSize = 4096\n")
    loaded = load(Service, conf, {})
    assert loaded.settings == Service()
    assert loaded.without_meaning == ("room.maxBufferSize",)


def test_secret_comes_from_the_environment_or_a_credential(tmp_path: Path) -> None:
    (tmp_path / "token_secret").write_bytes(b"from a file\n")
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(Service, None, {}).settings.server.secret is None
    assert load(Service, None, credentials).settings.server.secret == Secret(b"from a file")
    both = load(Service, None, credentials | {"ROOMCAST_TOKEN_SECRET": "from env"})
    assert both.settings.server.secret == Secret(b"from env")
    assert both.provenance == {"srv.secret": "environment ROOMCAST_TOKEN_SECRET"}


def test_credential_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token_secret").mkdir()
    with pytest.raises(SettingsError, match="token_secret: Is a directory"):
        load(Service, None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    (tmp_path / "token_secret").rmdir()
    (tmp_path / "token_secret").write_bytes(b"x" * 100_000)
    with pytest.raises(SettingsError, match="that is no secret"):
        load(Service, None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_missing_credential_is_no_secret(tmp_path: Path) -> None:
    assert load(Service, None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).settings.server.secret is None


@pytest.mark.parametrize("given", [("[srv]\nsecret = 'abc'", {}), ("", {"ROOMCAST_SRV__SECRET": "abc"})])
def test_secret_in_settings_is_refused_without_repeating_it(
    conf: Path, given: tuple[str, dict[str, str]]
) -> None:
    message = refusal(conf, *given)
    assert "is a secret and never stands in settings: use ROOMCAST_TOKEN_SECRET" in message
    assert "abc" not in message


def test_nested_services_keep_the_defaults_of_their_parent() -> None:
    settings = load(Both, None, {"ROOMCAST_TWO__SRV__TTL": "9"}, {"one.room.signal": "2s"}).settings
    assert settings.one.room == Room(batch=7, signal_s=2.0)
    assert settings.two.room.batch == 20
    assert settings.two.server.ttl_s == 9.0


@pytest.mark.parametrize("key", ["one.srv.ttl", "two.room.batch"])
def test_part_that_does_not_exist_there_is_refused(key: str) -> None:
    with pytest.raises(SettingsError, match="is not a setting"):
        load(Both, None, {}, {key: 1})


def test_description_says_where_each_value_came_from(conf: Path) -> None:
    conf.write_text("# first line\n[room]\nbatch = 5\nmaxBufferSize = 1\n")
    environ = {"ROOMCAST_ROOM__SIGNAL": "2s", "ROOMCAST_TOKEN_SECRET": "private"}
    lines = describe(load(Service, conf, environ, {"srv.ttl": 1})).splitlines()
    squeezed = [re.sub(" +", " ", line) for line in lines]
    assert squeezed[:4] == [
        "[room]",
        f"batch = 5 # {conf}:3",
        'signal = "2s" # environment ROOMCAST_ROOM__SIGNAL',
        'maxBytes = "64KiB" # default',
    ]
    assert "ttl = 1 # argument" in squeezed
    assert "# secret = *** # environment ROOMCAST_TOKEN_SECRET" in squeezed
    assert "# room.maxBufferSize was given and has no meaning here" in squeezed
    assert not any("private" in line for line in lines)


def test_description_leaves_out_what_does_not_exist_there() -> None:
    described = tomllib.loads(describe(load(Both, None, {})))
    assert "srv" not in described["one"]
    assert "batch" not in described["two"]["room"]
    assert described["one"]["room"]["batch"] == 7


@given(
    batch=st.integers(1, 10**9),
    signal_ms=st.integers(0, 10**9),
    size=st.integers(1, 1 << 40),
    name=st.text(),
    origins=st.lists(st.text(), max_size=3),
    demo=st.booleans(),
)
def test_description_read_again_means_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    batch: int,
    signal_ms: int,
    size: int,
    name: str,
    origins: list[str],
    demo: bool,
) -> None:
    given = {
        "room.batch": batch,
        "room.signal": f"{signal_ms}ms",
        "room.maxBytes": size,
        "srv.name": name,
        "srv.origins": origins,
        "srv.demo": demo,
    }
    loaded = load(Service, None, {}, given)
    copy = tmp_path_factory.getbasetemp() / "copy.toml"
    copy.write_text(describe(loaded), newline="")
    assert load(Service, copy, {}).settings == loaded.settings


@given(st.text())
def test_any_text_survives_as_toml(text: str) -> None:
    assert tomllib.loads(f"value = {to_toml(text)}")["value"] == text


@click.command()
@conf_option("service-example.toml")
@check_option()
def command(conf: Path | None, check: bool) -> None:
    click.echo(f"{conf} {check}")


@pytest.mark.parametrize(
    "arguments", [["-conf", "a.toml"], ["-conf=a.toml"], ["--conf", "a.toml"], ["--conf=a.toml"]]
)
def test_settings_file_is_named_in_all_forms_of_the_go_system(arguments: list[str]) -> None:
    assert CliRunner().invoke(command, arguments).output == "a.toml False\n"
    assert CliRunner().invoke(command, [*arguments, "--check"]).output == "a.toml True\n"


def test_default_file_is_read_if_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(command, []).output == "None False\n"
    Path("service-example.toml").touch()
    assert CliRunner().invoke(command, []).output == "service-example.toml False\n"


@pytest.mark.parametrize("arguments", [["-conf"], ["-c", "x"], ["stray"]])
def test_other_arguments_are_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(command, arguments).exit_code == 2


@given(st.text(max_size=200))
def test_no_file_makes_it_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode())
    problem = str(path)
    try:
        load(Service, path, {})
    except SettingsError as exc:
        problem = str(exc)
    assert problem.startswith(str(path))
