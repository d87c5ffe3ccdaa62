"""The directory as files: all errors with their lines, imports that change nothing twice, and back again."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from readingroom.errors import Conflict, NotFound
from readingroom.model import Scope
from server.worklist.directory import eligible_readers
from server.worklist.directory_file import Told, WrongFile, read_files, write_text
from server.worklist.directory_import import Change, changes_of, import_directory
from server.worklist.items import create_item, offer_item
from storage.catalog import schema as t
from storage.catalog.directory import Directory, contract_for, read_directory
from storage.catalog.engine import begin_write
from storage.catalog.matching import parse
from storage.catalog.studies import ensure_facility
from storage.catalog.work_items import ITEM_KEYS, search_items
from tests.catalog import fill, header
from tests.commands import Run
from tests.directory import facility, item
from tests.servers import REPOSITORY
from tests.worklist import at_work

NOW = datetime(2026, 3, 2, 18, tzinfo=UTC)  # Monday noon in Texas
EXAMPLES = REPOSITORY / "docs" / "examples"
FACILITIES, READERS = EXAMPLES / "facilities.toml", EXAMPLES / "readers.toml"
KINDS = {"hospital", "imaging-centre", "urgent-care", "clinic", "mobile", "teleradiology"}


@pytest.fixture
def told() -> Told:
    """What the examples say."""
    return read_files([FACILITIES, READERS])


def write(folder: Path, text: str, name: str = "f.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(*paths: Path, known: Directory | None = None) -> list[str]:
    with pytest.raises(WrongFile) as error:
        read_files(paths, known)
    return [str(one).replace(f"{paths[0].parent}/", "") for one in error.value.problems]


HOSPITAL = '[[facilities]]\nid = "f"\nname = "F"\nkind = "hospital"\nstate = "US-TX"\nzone = "America/Chicago"\n'
READER = '[[readers]]\nid = "r"\nname = "R"\nzone = "America/Chicago"\n'


# -- reading -----------------------------------------------------------------------------------------------------------


def test_the_examples_have_a_facility_of_each_kind_and_are_right(told: Told) -> None:
    assert {one.kind for one in told.facilities.values()} == KINDS
    assert sum(one.parent == "wheels" for one in told.facilities.values()) == 25
    assert told.facilities["wheels-006"].state == "US-NM"
    assert told.facilities["wheels-001"].zone == "America/Chicago"
    assert len(told.readers) == 3


def test_an_ae_title_or_a_sender_of_two_facilities_is_told_with_the_line_of_the_second(tmp_path: Path) -> None:
    claims = '[[facilities.aes]]\nae = "CT1"\n[[facilities.senders]]\napplication = "RIS"\n'
    second = HOSPITAL.replace('"f"', '"g"')
    file = write(tmp_path, HOSPITAL + claims + second + claims)
    assert problems(file) == [
        "f.toml:17: aes: facility f has the AE title 'CT1' already",
        "f.toml:19: senders: facility f has the sender RIS|* already",
    ]
    known = Directory(facilities={"m": facility("m", aes=[{"ae": "CT1"}])}, readers={})
    alone = write(tmp_path, HOSPITAL + claims, "alone.toml")
    assert problems(alone, known=known) == ["alone.toml:7: aes: facility m has the AE title 'CT1' already"]


def test_all_errors_of_all_files_are_told_with_their_lines(tmp_path: Path) -> None:
    first = write(
        tmp_path,
        """\
# the first line
colour = "red"
[[facilities]]
id = "mercy"
name = "Mercy"
kind = "hospitel"
state = "TX"
zone = "America/Chicago"
sites_csv = "sites.csv"
contacts = [
    { name = "Desk", role = "desk", channel = "smtp", address = "desk@example.org" },
    { name = "Lead", role = "boss", channel = "voice", address = "911" },
]
[[facilities.contracts]]
from = 2026-01-01
classes = [
    { study_type = "stat", due = "soon" },
    { study_type = "routine", due = "1d", hours = "business" },
]

[[facilities]]
id = "north"
parent = "nowhere"
zone = "Mars/Olympus"
""",
    )
    second = write(
        tmp_path,
        """\
[[readers]]
id = "ada"
name = "Ada"
zone = "America/Chicago"
licences = [
    { state = "US-TX" },
    { state = "US-OK", number = "1", from = 2026-02-01, to = 2026-01-01 },
]
[[readers.shifts]]
days = "mon-fri"
starts = "8 am"
ends = "17:00"
[[readers]]
id = "ada"
name = "Another"
zone = "UTC"
credentials = [{ facility = "mercy" }, { facility = "elsewhere" }]
[[readers]]
id = "bob"
name = "Bob"
zone = "UTC"
credentials = [{ facility = "elsewhere" }]
""",
        "readers.toml",
    )
    write(tmp_path, "id,name,state\na,A,US-OK\na,B,US-OK\nc,,US-OK\nd,D,Oklahoma,8\n", "sites.csv")
    kinds = "'hospital', 'imaging-centre', 'urgent-care', 'clinic', 'mobile' or 'teleradiology'"
    assert problems(first, second) == [
        "f.toml:2: colour: a directory has [[facilities]] and [[readers]] only",
        f"f.toml:6: kind: Input should be {kinds}",
        "f.toml:7: state: write a state as ISO 3166-2 has it, such as US-TX, or a country such as DE, not 'TX'",
        "f.toml:12: contacts.2.role: Input should be 'referrer', 'backup', 'desk', 'supervisor' or 'reader'",
        "f.toml:17: contracts.1.classes.1.due: write a span such as 45m, 1h30m or 2d, not 'soon'",
        "f.toml:21: kind: is missing",
        "f.toml:21: name: is missing",
        "f.toml:21: state: is missing",
        "f.toml:24: zone: there is no time zone 'Mars/Olympus'; the IANA names are such as America/Chicago",
        "readers.toml:6: licences.1.number: is missing",
        "readers.toml:7: licences.2: it ends on 2026-01-01, before it begins on 2026-02-01",
        "readers.toml:11: shifts.1.starts: write a time of day as 08:00 or 17:30, not '8 am'",
        "readers.toml:14: id: 'ada' is given already at readers.toml:2",
        "readers.toml:22: credentials: there is no facility 'elsewhere'",
        "sites.csv:3: id: 'a' is given already at sites.csv:2",
        "sites.csv:4: name: is missing",
        "sites.csv:5: there are 4 values for 3 columns",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[facilities]]\nid = 'a'\nname = \n", "f.toml:3: this is no TOML: Invalid value"),
        ("[[facilities]]\nid = 'a", "f.toml:2: this is no TOML:"),
        ("x = " + "[" * 5000, "f.toml:1: this is nested too deep"),
        ("facilities = 1", "f.toml:1: facilities: write each as a table below [[facilities]]"),
        ("[facilities]\nid = 'a'", "f.toml:1: facilities: write each as a table below [[facilities]]"),
        ("readers = [1]", "f.toml:1: readers: write each as a table below [[readers]]"),
        (HOSPITAL + "sites = 3", "f.toml:7: sites: write each as a table below [[sites]]"),
        (HOSPITAL + "sites_csv = 'none.csv'", "f.toml:7: sites_csv: there is no such file beside this one"),
        (HOSPITAL + "sites_csv = 3", "f.toml:7: sites_csv: there is no such file beside this one"),
        (HOSPITAL + "parent = 'f'", "f.toml:7: parent: f is a site of itself"),
        (HOSPITAL + "parent = 'g'", "f.toml:7: parent: there is no facility 'g'"),
        (READER + "credentials = [{ facility = 'g' }]", "f.toml:5: credentials: there is no facility 'g'"),
        (HOSPITAL.replace('"f"', "7"), "f.toml:2: id: Input should be a valid string"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    (found,) = problems(write(tmp_path, text))
    assert found.startswith(said)


def test_bytes_that_are_no_text_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_bytes(b"# one\n# two\nname = '\xff'\n")
    assert problems(path) == ["f.toml:3: this is no UTF-8"]
    with pytest.raises(NotFound, match="There is no file"):
        read_files([tmp_path / "none.toml"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "s.csv:1: 'id': the first line names columns: id and name, and any of state"),
        ("id,name,colour\n", "s.csv:1: 'colour': the first line names columns"),
        ('id,name\na,"A\n\nb,B', "s.csv:2: this is no CSV: unexpected end of data"),
        ('id,name\n"a","two\nlines"\nb c,B', "s.csv:4: id: String should match pattern"),
    ],
)
def test_a_csv_file_that_is_wrong_is_told_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, text, "s.csv")
    found = problems(write(tmp_path, HOSPITAL + "sites_csv = 's.csv'"))
    assert any(one.startswith(said) for one in found), found


def test_a_ring_of_sites_is_told(tmp_path: Path) -> None:
    other = HOSPITAL.replace('"f"', '"g"') + 'parent = "f"\n'
    found = problems(write(tmp_path, HOSPITAL + 'parent = "g"\n' + other))
    assert found == ["f.toml:14: parent: g is a site of itself", "f.toml:7: parent: f is a site of itself"][::-1]


def test_what_is_wrong_with_an_operator_is_not_told_of_each_site(tmp_path: Path) -> None:
    text = HOSPITAL.replace("US-TX", "Texas") + "".join(
        f'[[facilities.sites]]\nid = "s{number}"\nname = "S"\n' for number in range(3)
    )
    (found,) = problems(write(tmp_path, text))
    assert found.startswith("f.toml:5: state: write a state as ISO 3166-2 has it")


def test_a_file_may_name_what_is_in_the_catalog(tmp_path: Path) -> None:
    path = write(tmp_path, READER + "credentials = [{ facility = 'mercy' }]")
    known = Directory(facilities={"mercy": facility()}, readers={})
    assert list(read_files([path], known).readers) == ["r"]


def test_what_is_written_says_the_same_when_it_is_read(told: Told, tmp_path: Path) -> None:
    text = write_text(Directory(facilities=told.facilities, readers=told.readers))
    again = read_files([write(tmp_path, text)])
    assert (again.facilities, again.readers) == (told.facilities, told.readers)


# -- importing ---------------------------------------------------------------------------------------------------------


def test_an_import_run_again_changes_nothing(engine: sa.Engine, told: Told) -> None:
    assert {change.what for change in import_directory(engine, told, NOW)} == {"added"}
    with engine.connect() as connection:
        rows = connection.execute(sa.select(t.licence).order_by(t.licence.c.id)).all()
    assert import_directory(engine, told, NOW) == []
    with engine.connect() as connection:
        assert set(connection.execute(sa.select(t.reader.c.version)).scalars()) == {1}
        assert connection.execute(sa.select(t.licence).order_by(t.licence.c.id)).all() == rows
        found = read_directory(connection)
    assert (found.facilities, found.readers) == (
        {id: told.facilities[id] for id in sorted(told.facilities)},
        dict(told.readers),
    )


def test_the_readers_of_the_examples_are_eligible_as_the_guide_says(engine: sa.Engine, told: Told) -> None:
    import_directory(engine, told, NOW)
    with engine.connect() as connection:
        found = read_directory(connection)
        agreed = contract_for(connection, "wheels-003", date(2026, 3, 2))
    assert agreed is not None
    assert agreed.facility == "wheels"
    who = {id: {one.id for one in eligible_readers(found, item(facility=id), NOW).readers} for id in found.facilities}
    assert who["mercy"] == {"ben", "cai"}
    assert who["wheels-008"] == {"ben", "cai"}
    assert who["wheels-003"] == set()  # in Oklahoma: nobody with privileges there has its licence
    assert who["wheels-006"] == {"ben"}  # in New Mexico
    assert who["wheels-007"] == set()  # likewise, and ben is suspended there


def test_a_change_is_told_by_its_fields(engine: sa.Engine, told: Told) -> None:
    import_directory(engine, told, NOW)
    moved = told.facilities["mesa"].model_copy(update={"city": "Taos", "zone": "America/Phoenix"})
    fewer = told.readers["ben"].model_copy(update={"licences": told.readers["ben"].licences[:1]})
    changed = Told(facilities={"mesa": moved}, readers={"ben": fewer})
    expected = [
        Change(kind="facility", id="mesa", what="changed", fields=("zone", "city")),
        Change(kind="reader", id="ben", what="changed", fields=("licences",)),
    ]
    with engine.connect() as connection:
        assert changes_of(connection, changed) == expected
    assert import_directory(engine, changed, NOW) == expected
    with engine.connect() as connection:
        assert read_directory(connection).facilities["mesa"] == moved
        assert read_directory(connection).readers["ben"] == fewer


def test_the_items_of_a_reader_are_found_by_the_name_that_the_reader_has_now(engine: sa.Engine, told: Told) -> None:
    with at_work(engine) as work:
        item = offer_item(work, create_item(work, facility="local", kind="read"), "ben")

    def found(name: str) -> list[str]:
        conditions = tuple(parse({"00404034.00404037": name}, keys=ITEM_KEYS))
        with engine.connect() as connection:
            return [one.id for one in search_items(connection, Scope(), conditions, limit=9)]

    assert found("ben") == [item.id]
    import_directory(engine, told, NOW)
    assert found(told.readers["ben"].name) == [item.id]
    renamed = told.readers["ben"].model_copy(update={"name": "Benjamin Married"})
    import_directory(engine, Told(facilities={}, readers={"ben": renamed}), NOW)
    assert found("benjamin married") == [item.id]
    assert found(told.readers["ben"].name) == []


def test_what_is_missing_is_deactivated_only_when_asked_for(engine: sa.Engine, told: Told) -> None:
    with begin_write(engine) as connection:
        ensure_facility(connection, "local")
    import_directory(engine, told, NOW)
    only = Told(facilities={"mesa": told.facilities["mesa"]}, readers={})
    assert import_directory(engine, only, NOW) == []
    gone = import_directory(engine, only, NOW, prune=True)
    assert {change.what for change in gone} == {"deactivated"}
    assert {change.id for change in gone} == told.facilities.keys() - {"mesa"}
    assert import_directory(engine, only, NOW, prune=True) == []
    with engine.connect() as connection:
        assert list(read_directory(connection).facilities) == ["mesa"]
        assert len(read_directory(connection).readers) == 3
    back = import_directory(engine, told, NOW)
    assert {change.what for change in back} == {"activated"}
    with engine.connect() as connection:
        assert read_directory(connection).facilities.keys() == told.facilities.keys()


def test_an_import_that_cannot_be_leaves_everything_as_it_was(engine: sa.Engine, told: Told) -> None:
    fill(engine, header(PatientID="1"), facility="mercy")
    with pytest.raises(Conflict, match="cannot become 'MERCY'"):
        import_directory(engine, told, NOW)
    with engine.connect() as connection:
        assert read_directory(connection).facilities == {}


def test_hundreds_of_sites_are_imported_at_once(engine: sa.Engine, tmp_path: Path) -> None:
    rows = "".join(f"s{number:03},Site {number},Town\n" for number in range(200))
    write(tmp_path, "id,name,city\n" + rows, "s.csv")
    told = read_files([write(tmp_path, HOSPITAL.replace("hospital", "mobile") + "sites_csv = 's.csv'")])
    assert len(import_directory(engine, told, NOW)) == 201
    assert import_directory(engine, told, NOW + timedelta(days=1)) == []


# -- the commands ------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_directory(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    at = ("--data", tmp_path / "data", "--database", sqlite_url)
    files = (FACILITIES, READERS)
    assert "31 facilities and 3 readers: all is right." in run("directory", "check", *files, *at).words
    assert "34 would change." in run("directory", "import", *files, "--dry-run", *at).words
    first = run("directory", "import", *files, *at).words
    assert "added facility mercy" in first
    assert "34 changed." in first
    assert "nothing changed." in run("directory", "import", *files, *at).words
    assert "all is right" in run("directory", "check", READERS, *at).words

    exported = tmp_path / "out.toml"
    assert "Wrote 31 facilities" in run("directory", "export", exported, *at).words
    assert "nothing changed." in run("directory", "import", exported, *at).words
    assert run("directory", "export", *at).out == exported.read_text()
    assert "already" in run("directory", "export", exported, *at, status=1).err

    listed = run("readers", "list", "--facility", "mercy", "--at", "2026-03-02T12:00-06:00", *at).words
    assert "no not on shift" in listed
    assert "until 2026-03-03T02:00Z yes" in listed
    refused = run("readers", "list", "--facility", "mercy", "--state", "US-NY", "--json", *at)
    assert "no licence for US-NY" in refused.out
    assert "no eligible reader on shift: 3 by licence" in refused.err
    assert "Ada Night" in run("readers", "list", *at).out
    assert "time with its zone" in run("readers", "list", "--at", "noon", *at, status=1).err
    assert "no facility 'nowhere'" in run("readers", "list", "--facility", "nowhere", *at, status=1).err

    assert "somebody for mercy at any time" in run("readers", "gaps", "mercy", *at).words
    assert "America/Denver" in run("readers", "gaps", "mesa", "--days", "2", *at, status=1).out


def test_a_wrong_file_is_told_and_nothing_is_imported(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    at = ("--data", tmp_path / "data", "--database", sqlite_url)
    path = write(tmp_path, HOSPITAL + "npi = '1'\n" + READER + "skills = ['?']\n")
    for command in ("check", "import"):
        said = run("directory", command, path, *at, status=1).err
        assert f"{path}:7: npi: an NPI has ten digits" in said
        assert f"{path}:12: skills.1: write a skill as a modality" in said
    assert "0 facilities" in run("directory", "export", tmp_path / "empty.toml", *at).words
