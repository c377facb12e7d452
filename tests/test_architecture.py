"""The laws of docs/architecture.md that are about single files and about calls, read from the source.

Whole-graph laws (directions, layers, purity through others) are import-linter's, in pyproject.toml; `make
arch` checks them.  Each law here is a function from a module's syntax tree to what breaks it, and each has a
sample that breaks it, so that a law that has gone blind is noticed.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests")

# Library -> the only files that may import it.
HOMES = {
    "ansq": ("runtime/queue/nsq/codec.py",),
    "grpclib": ("runtime/rpc/*.py", "schema/proto/*_grpc.py", "*/rpc.py"),
    "h11": ("conn_server/http/front.py", "runtime/http.py"),
    "h2": ("runtime/rpc/*.py",),
    "httpx2": (
        *("runtime/asking.py", "runtime/discovery/gateway.py", "runtime/discovery/etcd.py"),
        "runtime/queue/nsq/lookup.py",
        *("standalone/demo.py", "clients/*.py", "bench/*.py", "tests/*.py"),
    ),
    "hypercorn": ("conn_server/http/front.py", "runtime/http.py", "runtime/admin.py"),
    "prometheus_client": ("runtime/metrics.py", "runtime/admin.py"),
    "quart": ("conn_server/http/routes.py", "runtime/admin.py"),
    "quart_trio": ("conn_server/http/routes.py", "runtime/admin.py"),
    "trio_websocket": ("clients/*.py", "bench/*.py"),
    "werkzeug": ("conn_server/http/forms.py", "conn_server/http/routes.py"),
    "wsproto": ("conn_server/opening.py", "conn_server/unusual.py"),
    # The generated stubs bring grpclib with them: only the ends of a link need them.
    "schema.proto.conn_grpc": ("*/rpc.py", "runtime/rpc/*.py"),
    "schema.proto.logic_grpc": ("*/rpc.py", "runtime/rpc/*.py"),
    "schema.proto.job_grpc": ("*/rpc.py", "runtime/rpc/*.py"),
}
NOWHERE = ("anyio", "asyncio", "concurrent", "multiprocessing", "pickle", "threading", "trio_asyncio")
# Programs of their own, started as child processes; nothing imports them.
PEERS = ("bench/peers/*.py", "tests/peers/*.py", "tests/*/peers/*.py")

PURE = (
    "schema/*.py",
    "delivery/*.py",
    "*/settings.py",
    "conn_server/http/answers.py",
    "conn_server/http/forms.py",
    "conn_server/admission.py",
    "conn_server/deadlines.py",
    "conn_server/frames.py",
    "conn_server/http/idempotency.py",
    "conn_server/lanes.py",
    "conn_server/origin.py",
    "conn_server/outbox.py",
    "conn_server/placing.py",
    "conn_server/rejection.py",
    "conn_server/rooms.py",
    "conn_server/session.py",
    "conn_server/upgrade.py",
    "conn_server/workers/health.py",
    "conn_server/workers/plan.py",
    "job_worker/handover.py",
    "job_worker/lane.py",
    "job_worker/merge.py",
    "job_worker/ownership.py",
    "logic_server/rules.py",
)
EFFECTS = ("grpclib", "h2", "httpx2", "random", "select", "socket", "ssl", "time", "trio", "wsproto")
CLOCKS = tuple(
    f"datetime.{call}" for call in ("datetime.now", "datetime.utcnow", "datetime.today", "date.today")
)

DETACHED = ("trio.lowlevel.spawn_system_task", "trio.from_thread.run", "os.fork", "os.forkpty")
# In a snake_case name as a whole word, in a class name anywhere.
EMPTY_WORDS = re.compile(
    r"(^|_)(manager|utils?|common|helpers?|handle2|data2|proc|srv)(_|$)|Manager|Helper|Utils?([A-Z]|$)"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One module: where it is, what it says, and what its imported names stand for."""

    path: PurePosixPath
    tree: ast.Module
    imported: dict[str, str]

    def is_in(self, patterns: tuple[str, ...]) -> bool:
        """Return whether one pattern matches the whole path; `*` also spans folders."""
        anchored = (pattern.replace(".", r"\.").replace("*", ".*") for pattern in patterns)
        return any(re.fullmatch(pattern, str(self.path)) for pattern in anchored)

    def called(self) -> Iterator[tuple[str, ast.Call]]:
        """Yield every call with its full dotted name, `trio.sleep` whatever it was imported as."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                # `open_memory_channel[bytes](1)` calls a subscript.
                function = node.func.value if isinstance(node.func, ast.Subscript) else node.func
                head, _, rest = ast.unparse(function).partition(".")
                yield ".".join(filter(None, (self.imported.get(head, head), rest))), node


def parse(path: str, text: str) -> Source:
    """Return the module at `path` (relative to the root) whose text is `text`."""
    tree = ast.parse(text, path)
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head = alias.name.partition(".")[0]
                imported[alias.asname or head] = alias.name if alias.asname else head
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return Source(PurePosixPath(path), tree, imported)


def imports(source: Source) -> Iterator[str]:
    """Yield the full name of all that is imported, conditionally and for types as well."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def libraries_stay_at_home(source: Source) -> Iterator[str]:
    for name in imports(source):
        for library, homes in HOMES.items():
            if is_within(name, library) and not source.is_in(homes):
                yield f"imports {name}, which belongs to {', '.join(homes)}"


def nothing_imports_another_way_to_wait(source: Source) -> Iterator[str]:
    if source.is_in(PEERS):
        return
    for name in imports(source):
        if any(is_within(name, banned) for banned in NOWHERE):
            yield f"imports {name}"


def pure_modules_have_no_effects_and_no_clock(source: Source) -> Iterator[str]:
    if not source.is_in(PURE) or source.is_in(("schema/proto/*.py",)):
        return
    for name in imports(source):
        if any(is_within(name, effect) for effect in EFFECTS):
            yield f"imports {name}"
    for name, call in source.called():
        if name in CLOCKS:
            yield f"line {call.lineno} calls {name}: time is an argument"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            yield f"line {node.lineno} is async"


def every_channel_is_bounded(source: Source) -> Iterator[str]:
    for name, call in source.called():
        if name == "trio.open_memory_channel":
            size = ast.unparse(call.args[0]) if call.args else "missing"
            if "inf" in size:
                yield f"line {call.lineno} opens an unbounded channel: {size}"


def every_task_has_a_visible_parent(source: Source) -> Iterator[str]:
    for name, call in source.called():
        if name in DETACHED:
            yield f"line {call.lineno} calls {name}"


def names_say_something(source: Source) -> Iterator[str]:
    if EMPTY_WORDS.search(source.path.stem):
        yield "is named by an empty word"
    definitions = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(source.tree):
        if isinstance(node, definitions) and EMPTY_WORDS.search(node.name):
            yield f"line {node.lineno}: {node.name} is an empty word"


def modules_hold_no_mutable_state(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            yield f"line {node.lineno} rebinds {', '.join(node.names)} of the module"


Law = Callable[[Source], Iterator[str]]

# Law -> samples (path, text) that break it.
LAWS: dict[Law, tuple[tuple[str, str], ...]] = {
    libraries_stay_at_home: (
        ("conn_server/client.py", "import wsproto"),
        ("conn_server/app.py", "from hypercorn.trio import tcp_server"),
        ("job_worker/feed.py", "import grpclib.client as g"),
        ("schema/names.py", "from schema.proto import conn_grpc"),
        ("runtime/queue/nsq/connection.py", "def f():\n    from ansq.tcp import types"),
    ),
    nothing_imports_another_way_to_wait: (
        ("conn_server/app.py", "import asyncio"),
        ("clients/python.py", "from asyncio import create_task"),
        ("runtime/logs.py", "if True:\n    import threading as t"),
        ("runtime/rpc/streams.py", "import concurrent.futures"),
    ),
    pure_modules_have_no_effects_and_no_clock: (
        ("schema/batch.py", "import socket"),
        ("delivery/rings.py", "from time import monotonic"),
        ("conn_server/settings.py", "import trio"),
        ("conn_server/rooms.py", "async def join(): ..."),
    ),
    every_channel_is_bounded: (
        ("job_worker/feed.py", "import math, trio\ntrio.open_memory_channel(math.inf)"),
        ("job_worker/feed.py", "from trio import open_memory_channel as o\no[bytes](float('inf'))"),
    ),
    every_task_has_a_visible_parent: (
        ("conn_server/app.py", "import trio\ntrio.lowlevel.spawn_system_task(f)"),
        ("conn_server/app.py", "from trio.lowlevel import spawn_system_task as go\ngo(f)"),
    ),
    names_say_something: (
        ("conn_server/room_utils.py", ""),
        ("conn_server/rooms.py", "class RoomManager: ..."),
        ("job_worker/app.py", "def open_srv(): ..."),
    ),
    modules_hold_no_mutable_state: (("runtime/logs.py", "def f():\n    global current\n    current = 1"),),
}


def modules(*folders: str) -> list[Source]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [parse(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


@pytest.fixture(scope="module")
def packaged() -> list[Source]:
    return modules(*PACKAGES)


@pytest.fixture(scope="module")
def testing() -> list[Source]:
    return modules("tests")


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_holds_everywhere(law: Law, packaged: list[Source]) -> None:
    broken = [f"{source.path} {breach}" for source in packaged for breach in law(source)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("law", "path", "text"),
    [
        pytest.param(law, path, text, id=f"{law.__name__}-{number}")
        for law, samples in LAWS.items()
        for number, (path, text) in enumerate(samples)
    ],
)
def test_law_notices_a_breach(law: Law, path: str, text: str) -> None:
    assert list(law(parse(path, text)))


def test_well_made_modules_break_no_law() -> None:
    sources = (
        parse("conn_server/opening.py", "from wsproto.events import Request"),
        parse("logic_server/rpc.py", "from schema.proto.logic_grpc import LogicBase"),
        parse("schema/proto/conn_grpc.py", "import grpclib.client"),
        parse("job_worker/feed.py", "import trio\ntrio.open_memory_channel[bytes](64)"),
        parse("runtime/lifecycle.py", "import time\ndef processed(): return time.monotonic()"),
    )
    assert [breach for source in sources for law in LAWS for breach in law(source)] == []


def test_no_test_imports_another_way_to_wait(testing: list[Source]) -> None:
    nets = {"tests/conftest.py", "tests/test_conftest.py"}
    broken = [
        f"{source.path} {breach}"
        for source in testing
        if str(source.path) not in nets
        for breach in nothing_imports_another_way_to_wait(source)
    ]
    assert not broken, "\n".join(broken)


def test_nothing_imports_a_peer(packaged: list[Source], testing: list[Source]) -> None:
    broken = [
        f"{source.path} imports {name}"
        for source in (*testing, *packaged)
        for name in imports(source)
        if ".peers." in f"{name}."
    ]
    assert not broken, "\n".join(broken)


def test_import_linter_and_setuptools_know_every_package() -> None:
    linted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    assert sorted(linted) == PACKAGES
    installed = (ROOT / "setup.cfg").read_text().split()
    assert [name for name in PACKAGES if name not in installed] == []
