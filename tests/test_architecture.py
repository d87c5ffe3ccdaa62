"""Who may import whom: the arrows of the layout, read from the imports themselves.

::

    plugins                              only readingroom
    conformance  tests  benchmarks       anything below; nobody imports them
    app  cli  doctor  listen  settle ... wire things together, start them, run what is due
    dicomweb  dimse  fhir  web           views: never import each other
    room                                 the live handles that views are given
    ingest  worklist  reports  hl7 ...   the work: rules and transactions
    hooks  queue  auth  audit  status  settings
    storage
    readingroom                          the contract: imports nothing else of ours

An arrow points down and never back. Three exceptions have names: `server.cli` starts `conformance`,
`readingroom.testing` builds a room, and `conformance.triage` measures the detector of a plugin.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
OURS = ("readingroom", "server", "storage", "plugins", "conformance", "benchmarks", "tests")

VIEWS = frozenset(f"server.{name}" for name in ("dicomweb", "dimse", "fhir", "web"))
WIRING = frozenset(
    f"server.{name}"
    for name in (
        *("app", "cli", "dimse_command", "doctor", "edge_command", "fhir_command", "gauges", "hl7_command"),
        "jobs_command",
        *("listen", "listing", "peers_command", "purging", "settle", "worker"),
    )
)
BASE = frozenset(
    f"server.{name}"
    for name in ("hooks", "queue", "sqlite_queue", "postgres_queue", "announce", "auth", "audit", "status", "settings")
)
OUTSIDE = frozenset({"conformance", "tests", "benchmarks"})

CONTRACT_ROW, STORAGE_ROW, BASE_ROW, WORK_ROW, ROOM_ROW, VIEW_ROW, WIRING_ROW, OUTSIDE_ROW = range(8)

EXCEPTIONS = {
    ("server.cli", "conformance"),
    ("conformance.triage", "plugins.ai_triage"),
    ("readingroom.testing", "server"),
    ("readingroom.testing", "storage"),
}


@dataclass(frozen=True, slots=True)
class Arrow:
    """One import of ours by another module of ours."""

    line: int
    source: str
    target: str


def place(module: str) -> str:
    """The box of the drawing that a module lies in."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "server" else parts[0]


def row(box: str) -> int:
    """How high a box lies. What of `server` has no box of its own is the work."""
    if box in OUTSIDE:
        return OUTSIDE_ROW
    if box in ("readingroom", "plugins"):
        return CONTRACT_ROW
    if box == "storage":
        return STORAGE_ROW
    if box == "server.room":
        return ROOM_ROW
    for boxes, height in ((WIRING, WIRING_ROW), (VIEWS, VIEW_ROW), (BASE, BASE_ROW)):
        if box in boxes:
            return height
    return WORK_ROW


def wrong_way(arrow: Arrow) -> str | None:
    """Which way an arrow should not have gone; None where it goes right."""
    source, target = place(arrow.source), place(arrow.target)
    said = f"{arrow.source}:{arrow.line} imports {arrow.target}"
    if source == target or any(arrow.source == who and _is_in(arrow.target, what) for who, what in EXCEPTIONS):
        return None
    if source == "plugins":
        return None if target == "readingroom" else f"{said}: a plugin imports readingroom alone"
    if source == "readingroom":
        return f"{said}: the contract imports nothing else of ours"
    if source == "tests":
        return None
    if target in OUTSIDE:
        return f"{said}: nobody imports {target}"
    if target == "plugins":
        return f"{said}: plugins are found by their entry points, never imported"
    if source in VIEWS and target in VIEWS:
        return f"{said}: views never import each other"
    if row(source) < row(target):
        return f"{said}: {source} lies below {target}"
    return None


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def arrows(module: str, text: str, *, is_package: bool = False) -> Iterator[Arrow]:
    """The imports of ours in a module's text, wherever they stand in it."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            root = ".".join([*base, *([node.module] if node.module else [])])
            # `from server import auth` names a module, `from server.auth import Caller` something in one.
            names = [f"{root}.{alias.name}" if root == "server" else root for alias in node.names]
        else:
            continue
        for name in dict.fromkeys(names):
            if name.split(".")[0] in OURS:
                yield Arrow(node.lineno, module, name)


def modules() -> Iterator[tuple[str, Path]]:
    """The dotted name and the file of every module of ours."""
    for package in OURS:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_every_arrow_points_down() -> None:
    found = [
        wrong
        for module, path in modules()
        for arrow in arrows(module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py")
        if (wrong := wrong_way(arrow))
    ]
    assert not found, "\n".join(["An arrow of STYLE.md section 2 goes the wrong way:", *found])


def test_every_package_is_looked_at() -> None:
    seen = {module.split(".")[0] for module, _ in modules()}
    assert {"readingroom", "server", "storage", "benchmarks", "tests"} <= seen
    assert any(
        arrow.target == "storage.blobs" for module, path in modules() for arrow in arrows(module, path.read_text())
    )


@pytest.mark.parametrize(
    ("source", "text", "says"),
    [
        ("storage.blobs", "from server.settings import Settings", "storage lies below server.settings"),
        ("storage.catalog.find", "def f():\n    from server import auth", "storage lies below server.auth"),
        ("readingroom.model", "import storage.blobs", "the contract imports nothing else of ours"),
        ("readingroom.model", "from .clock import Clock\nfrom server.room import Room", "imports nothing else"),
        ("server.status", "from server.ingest import Ingest", "server.status lies below server.ingest"),
        ("server.ingest", "from server.room import Room", "server.ingest lies below server.room"),
        ("server.ingest", "from server.dicomweb import multipart", "server.ingest lies below server.dicomweb"),
        ("server.dicomweb.qido", "from ..fhir import search", "views never import each other"),
        ("server.dicomweb.qido", "from server.app import create_app", "server.dicomweb lies below server.app"),
        ("server.web.viewer", "from server.dicomweb.wado import frames", "views never import each other"),
        ("server.app", "from plugins.routing import route", "found by their entry points"),
        ("server.app", "from conformance import statement", "nobody imports conformance"),
        ("server.demo", "from benchmarks.phantom import slices", "nobody imports benchmarks"),
        ("server.cli", "from tests.synthetic import ct_series", "nobody imports tests"),
        ("benchmarks.stow", "from tests.synthetic import ct_series", "nobody imports tests"),
        ("plugins.routing", "from server.settings import Settings", "a plugin imports readingroom alone"),
        ("plugins.routing", "from storage import blobs", "a plugin imports readingroom alone"),
        ("server.worker", "from conformance import statement", "nobody imports conformance"),
    ],
)
def test_an_arrow_that_goes_the_wrong_way_is_named(source: str, text: str, says: str) -> None:
    wrong = [said for arrow in arrows(source, text) if (said := wrong_way(arrow))]
    assert len(wrong) == 1
    assert says in wrong[0]
    assert f"{source}:{len(text.splitlines())} imports" in wrong[0]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("server.dicomweb.wado", "from server.room import Room\nfrom storage.catalog import find"),
        ("server.dicomweb.wado", "from .multipart import parts\nfrom . import negotiation"),
        ("server.app", "from server.web import viewer\nfrom server import ingest, settings\nimport storage.blobs"),
        ("server.ingest", "from server.settings import Settings\nfrom readingroom.errors import Invalid"),
        ("server.cli", "def f():\n    import conformance.statement"),
        ("readingroom.testing", "from server.app import build_room\nfrom storage.blobs import Blobs"),
        ("plugins.routing", "from readingroom import hookimpl\nimport numpy"),
        ("tests.walks.story", "from server.app import build_room\nfrom plugins.routing import route"),
        ("benchmarks.stow", "from server.settings import Settings\nimport httpx"),
        ("conformance.reference", "from server.app import create_app"),
    ],
)
def test_an_arrow_that_points_down_is_left_alone(source: str, text: str) -> None:
    assert [wrong_way(arrow) for arrow in arrows(source, text) if wrong_way(arrow)] == []
