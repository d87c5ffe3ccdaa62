"""The cast of the tests: rooms, clients, servers, and a small CT that nobody ever had."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa
from pydicom import FileDataset
from sqlalchemy.util import LRUCache

from readingroom.clock import SetClock
from server.codecs import Codecs
from server.reports.documents.fonts import PACKAGES, find_fonts
from server.room import Room
from server.settings import Settings
from storage.catalog.engine import open_engine
from storage.catalog.migrate import upgrade
from tests import servers, synthetic
from tests.corpus import FOLDER, dicom_files
from tests.servers import S3, Absent, Live, Postgres

if TYPE_CHECKING:
    from tests.commands import Run

ROOMS = ("sqlite", "postgres", "s3")
DATABASES = ("sqlite", "postgres")
NOT_HERE = "not on this machine: "
IN_MEMORY = Path("/dev/shm")
IN_MEMORY_BYTES = 6 << 30
"""So much has to be free there before the tests write there; a whole run needs a third of it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="also run the long sets")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore:Using `httpx` with `starlette.testclient`")
    config.addinivalue_line("markers", "attributes(*given): what this test makes searchable, as the setting has it")
    config.addinivalue_line("markers", "rooms(*kinds): which rooms this test runs in: sqlite (default), postgres, s3")
    if "TMPDIR" not in os.environ and may_write_in_memory():
        os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)


def may_write_in_memory() -> bool:
    """Whether a file system in memory has the space for what the tests write.

    A new database costs 20 ms there, and 250 ms where it has to reach a disk. Nothing of it need outlive the machine:
    what the tests kill is a process, and what a process has written stays.
    """
    if not os.access(IN_MEMORY, os.W_OK | os.X_OK):
        return False
    found = os.statvfs(IN_MEMORY)
    return not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize >= IN_MEMORY_BYTES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long sets out unless asked for; begin with the walks.

    Each of those takes seconds: at the end, one would be walked while the other cores have nothing left to do.
    """
    items.sort(key=lambda item: "walks" not in item.path.parts)
    if not config.getoption("--runslow"):
        skip = pytest.mark.skip(reason="a long set: --runslow, or make test-slow")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(skip)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of `room` in each kind that its ``rooms`` marker names."""
    if "room_kind" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("rooms")
        metafunc.parametrize("room_kind", marker.args if marker else ROOMS[:1], indirect=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly what could not be tested here."""
    reasons = {
        report.longrepr[2].partition(NOT_HERE)[2]
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and NOT_HERE in report.longrepr[2]
    }
    for reason in sorted(reasons):
        terminalreporter.write_line(f"NOT TESTED HERE: {reason}", red=True, bold=True)


def absent(what: object) -> None:
    """Skip, loudly, a test whose server or program is not here; where CI is set that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{NOT_HERE}{what}")
    pytest.skip(f"{NOT_HERE}{what}")


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_the_user() -> Iterator[None]:
    """Neither the user's configuration file nor the user's environment reaches a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("READINGROOM_")]:
            if name != "READINGROOM_CORPUS":
                patch.delenv(name)
        patch.setenv("READINGROOM_CONFIG", os.devnull)
        yield


class Compiled(LRUCache[tuple[Any, ...], Any]):
    """Statements as they were compiled, by the kind of database: SQLAlchemy has them for each engine anew."""

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        return super().get((type(key[0]), *key[1:]), default)

    def __setitem__(self, key: tuple[Any, ...], value: Any) -> None:
        super().__setitem__((type(key[0]), *key[1:]), value)


@pytest.fixture(autouse=True, scope="session")
def _compiled_once() -> Iterator[None]:
    """All engines share what was compiled: each test has an engine of its own, and would spend a quarter on that."""
    compiled = Compiled(4000)

    def share(connection: sa.Connection) -> None:
        connection.engine._compiled_cache = compiled

    sa.event.listen(sa.Engine, "engine_connect", share)
    yield
    sa.event.remove(sa.Engine, "engine_connect", share)


@pytest.fixture
def clock() -> SetClock:
    """A clock that stands still until the test moves it."""
    return SetClock()


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real files."""
    if not dicom_files():
        absent("the corpus of real files (set READINGROOM_CORPUS to its folder)")
    return FOLDER


@pytest.fixture
def chest_ct() -> list[FileDataset]:
    """A CT series of five small slices."""
    return synthetic.ct_series()


@pytest.fixture(scope="session")
def noto() -> None:
    """The fonts of Noto, for every script."""
    if not {"Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans CJK JP"} <= find_fonts(None).families:
        absent(f"fonts for every script (Debian's {PACKAGES})")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server."""
    try:
        with servers.postgres() as server:
            yield server
    except Absent as error:
        absent(error)


@pytest.fixture(scope="session")
def moto() -> Iterator[S3]:
    """An S3 server in memory."""
    try:
        with servers.moto() as server:
            yield server
    except Absent as error:
        absent(error)


@pytest.fixture(scope="session")
def seaweed() -> Iterator[S3]:
    """An S3 server on disk."""
    try:
        with servers.seaweed() as server:
            yield server
    except Absent as error:
        absent(error)


@pytest.fixture(scope="session")
def npm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of ``tests/npm`` with the packages that its lock names, from npm's cache or its registry."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        absent("Node.js with npm (apt-get install nodejs npm)")
    folder = tmp_path_factory.mktemp("npm") / "scripts"
    shutil.copytree(Path(__file__).parent / "npm", folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries=1"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode:
        absent(f"the packages of tests/npm/package-lock.json: {run.stderr.strip()[-300:]}")
    return folder


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty catalog with its tables, to be copied: quicker than a migration for each test."""
    path = tmp_path_factory.mktemp("sqlite") / "catalog.sqlite"
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    """The name of a database with the tables."""
    url = postgres.new_database()
    engine = open_engine(url)
    upgrade(engine)
    engine.dispose()
    return url.rsplit("/", 1)[1]


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh, migrated SQLite catalog."""
    path = tmp_path / "catalog.sqlite"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres: Postgres, postgres_template: str) -> Iterator[str]:
    """A fresh, migrated PostgreSQL catalog."""
    url = postgres.new_database(postgres_template)
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """A catalog of either kind with migrated, empty tables."""
    engine = open_engine(request.getfixturevalue(f"{request.param}_url"))
    yield engine
    engine.dispose()


@pytest.fixture
def room_kind(request: pytest.FixtureRequest) -> str:
    """sqlite: SQLite and a folder; postgres: PostgreSQL and a folder; s3: SQLite and a bucket."""
    kind: str = request.param
    return kind


@pytest.fixture
def settings(request: pytest.FixtureRequest, room_kind: str, tmp_path: Path) -> Settings:
    """The settings of `room`; a test file may override this fixture to change them."""
    kwargs: dict[str, Any] = {"data": tmp_path / "data"}
    kwargs["database"] = request.getfixturevalue("postgres_url" if room_kind == "postgres" else "sqlite_url")
    if room_kind == "s3":
        kwargs |= request.getfixturevalue("moto").settings()
    return Settings(**kwargs)


@pytest.fixture(scope="session")
def codecs() -> Iterator[Codecs]:
    """Children for codecs that all rooms share: what they are forked from takes most of a second to start."""
    codecs = Codecs(children=2, memory_bytes=2 << 30, seconds=60)
    yield codecs
    codecs.close()


@pytest.fixture
def room(settings: Settings, clock: SetClock, codecs: Codecs) -> Iterator[Room]:
    """A room with an empty archive; mark a test with ``rooms`` to run it on PostgreSQL and S3 as well."""
    from server.app import build_room  # here, so that tests of storage alone need not load the server

    with build_room(settings, clock=clock, codecs=codecs) as room:
        yield room


@pytest.fixture
def client(room: Room) -> Iterator[httpx.Client]:
    """Speaks HTTP with the app of `room`, in this process."""
    from starlette.testclient import TestClient

    from server.app import create_app

    with TestClient(create_app(room), base_url="http://127.0.0.1:8780") as client:
        yield client


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process."""
    from tests.commands import runner

    return runner(capsys, monkeypatch)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A live server on SQLite and a local folder, one for each test file."""
    with servers.live_server(tmp_path_factory.mktemp("live") / "data") as server:
        yield server
