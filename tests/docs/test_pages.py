"""What the pages say that a machine can check: links, settings, and names of numbers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conn_server.settings import ConnSettings
from job_worker.settings import JobSettings
from logic_server.settings import LogicSettings
from runtime.sections import ServiceSettings
from runtime.settings import load

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")))
SERVICES: dict[str, type[ServiceSettings]] = {
    "conn-1.toml": ConnSettings,
    "logic-1.toml": LogicSettings,
    "job-1.toml": JobSettings,
}
# Number -> where its reasons stand in the source, and how they are written there.
REASONS = {
    "sessions_refused": (("conn_server/session.py",), r'count\("(\w+)"\)|return Code\.\w+, "(\w+)"'),
    "admission_refused": (("conn_server/admission.py",), r'_refuse\(\d+, "(\w+)"'),
    "openings_rejected": (
        ("conn_server/opening.py", "conn_server/port.py", "conn_server/admission.py"),
        r'(?:Rejection|_fail|_refuse)\((?:[\w.]+,)?\s*"(\w+)"',
    ),
    "posting_refusals": (
        ("conn_server/http/posting.py",),
        r'(?:_refuse\(|_refusals\[|Code\.\w+, )"(\w+)"',
    ),
    "http_routes_refusals": (("conn_server/http/routes.py",), r'_refusals\["(\w+)"\]'),
    "logic_rules_refused": (("logic_server/rules.py",), r'_refused\["(\w+)"\]|Code\.\w+, "(\w+)"'),
}
PACKAGES = ("runtime", "conn_server", "logic_server", "job_worker", "schema")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the fragments that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            dead.append(link)
    assert dead == []


def sources() -> Iterator[Path]:
    for package in (*PACKAGES, "standalone", "clients", "bench", "deploy", "tests"):
        yield from (path for path in (ROOT / package).rglob("*") if path.suffix in {".py", ".js", ".toml"})


def test_sections_that_the_source_names_are_on_the_page_under_that_title() -> None:
    """A number alone goes on pointing somewhere when sections move."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "wire.md").read_text(), re.MULTILINE)
    wrong, found = [], 0
    for path in sources():
        for number, title in re.findall(r"wire\.md (\d+\.\d+)(?:, (\w+))?", path.read_text()):
            found += 1
            if not any(title and heading.startswith(f"{number} {title}") for heading in headings):
                wrong.append(f"{path.relative_to(ROOT)}: wire.md {number}, {title}")
    assert wrong == []
    assert found > 4


def sample_files(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of the settings files that the page on installing shows."""
    for block in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE):
        if match := re.match(r" +# /etc/roomcast/(\S+\.toml)\n", block):
            yield match[1], re.sub("^    ", "", block, flags=re.MULTILINE)


def test_settings_shown_on_the_page_on_installing_are_taken(tmp_path: Path) -> None:
    shown = dict(sample_files((ROOT / "docs" / "install.md").read_text()))
    assert shown.keys() == SERVICES.keys()
    for name, text in shown.items():
        (tmp_path / name).write_text(text)
        loaded = load(SERVICES[name], tmp_path / name, {})
        assert "etcd.addrs" in loaded.provenance


def registered_parts() -> set[str]:
    sources = (path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {part for text in sources for part in re.findall(r"\bregister\(\s*\"(\w+)\"", text)}


def counted_fields() -> set[str]:
    """Return the fields of all statistics, those of nested ones after the name of the field they are in."""
    modules = (path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    names = {
        item.target.id
        for module in modules
        for node in ast.walk(ast.parse(module))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Statistics")
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    return names | {f"{outer}_{inner}" for outer in names for inner in names}


def test_numbers_on_the_page_on_operations_are_counted_somewhere() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    named = set(re.findall(r"\broomcast_([a-z0-9_]+)", text))
    assert len(named) > 20
    fields = counted_fields()
    known = {f"{part}_{field}" for part in registered_parts() for field in fields}
    bare = {re.sub("_seconds$", "_s", name.removesuffix("_total")): name for name in named}
    assert sorted(name for name_as_counted, name in bare.items() if name_as_counted not in known) == []


@pytest.mark.parametrize("number", REASONS)
def test_every_reason_is_in_the_row_of_its_number(number: str) -> None:
    paths, written = REASONS[number]
    source = "".join((ROOT / path).read_text() for path in paths)
    reasons = {"".join(filter(None, match.groups())) for match in re.finditer(written, source)}
    assert len(reasons) > 1
    page = (ROOT / "docs" / "operations.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `roomcast_{number}_total"))
    assert sorted(reason for reason in reasons if f"`{reason}`" not in row) == []
