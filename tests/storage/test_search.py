"""Searches, on SQLite and PostgreSQL alike: what matches, in which order, page by page, and by which index."""

from __future__ import annotations

import itertools
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from readingroom.errors import Invalid, ReadingRoomError
from readingroom.model import Scope
from storage.catalog import schema as t
from storage.catalog.engine import open_engine
from storage.catalog.keys import KEYS, MATCHED_VRS, Level, listed_key, tag_of
from storage.catalog.matching import MATCHING, How, parse
from storage.catalog.normal import normal_day
from storage.catalog.rows import STUDY_ROW
from storage.catalog.search import OrderKey, Part, Search, order_key, search
from storage.objects import BASE_URL_MARK, scan
from tests.catalog import CT, MR_IMAGE, fill, header
from tests.corpus import entries
from tests.synthetic import new_uid

EVERYWHERE = Scope()
UIDS = {name: new_uid() for name in ("hans", "jane", "doe", "john", "yamada", "undated", "nord")}

CAST = [
    {
        "StudyID": "hans",
        "PatientName": "Müller^Hans",
        "ReferringPhysicianName": "Groß^Anna",
        "PatientID": "P1",
        "PatientSex": "M",
        "PatientBirthDate": "19500101",
        "AccessionNumber": "ACC-1",
        "StudyDate": "20200105",
        "StudyTime": "0800",
        "StudyDescription": "CT Thorax",
        "Modality": "CT",
    },
    {
        "StudyID": "jane",
        "PatientName": "MULLER^JANE^Q",
        "PatientID": "P2",
        "PatientSex": "F",
        "AccessionNumber": "ACC_2",
        "StudyDate": "20200105",
        "StudyTime": "120000.5",
        "StudyDescription": "MRT Kopf",
        "Modality": "MR",
        "SOPClassUID": MR_IMAGE,
    },
    {
        "StudyID": "doe",
        "PatientName": "Doe",
        "PatientID": "P3",
        "AccessionNumber": "acc-1",
        "StudyDate": "20200106",
        "StudyTime": "1830",
        "StudyDescription": "CT 100% Kopf",
        "Modality": "CT",
    },
    {
        "StudyID": "john",
        "PatientName": "Doe^John",
        "PatientID": "P4",
        "AccessionNumber": "A!3",
        "StudyDate": "20200107",
        "StudyTime": "235900",
        "Modality": "XCT",
    },
    {
        "StudyID": "yamada",
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "PatientID": "P5",
        "AccessionNumber": "ACCX2",
        "StudyDate": "20200110",
        "Modality": "US",
    },
    {"StudyID": "undated", "StudyTime": "0900", "Modality": "OT"},
]
NORTH = {
    "StudyID": "nord",
    "PatientName": "Nord^Ole",
    "PatientID": "P1",
    "AccessionNumber": "ACC-1",
    "StudyDate": "20200108",
    "StudyTime": "1000",
    "Modality": "CT",
}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    """A catalog with the cast in it, that no test changes."""
    if request.param == "sqlite":
        path: Path = tmp_path_factory.mktemp("archive") / "catalog.sqlite"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        url = f"sqlite:///{path}"
    else:
        url = request.getfixturevalue("postgres").new_database(request.getfixturevalue("postgres_template"))
    engine = open_engine(url)
    fill(engine, *(header(StudyInstanceUID=UIDS[one["StudyID"]], **one) for one in CAST))
    fill(engine, header(StudyInstanceUID=UIDS["nord"], **NORTH), facility="north")
    sr = {"StudyInstanceUID": UIDS["jane"], "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11", "Modality": "SR"}
    fill(engine, header(**sr))
    yield engine
    engine.dispose()


def find(
    engine: sa.Engine,
    level: Level = "study",
    *,
    under: tuple[str, ...] = (),
    scope: Scope = EVERYWHERE,
    zone: str = "",
    limit: int = 100,
    offset: int = 0,
    after: OrderKey | None = None,
    is_fuzzy: bool = False,
    empty_values: bool = False,
    multiple_values: bool = False,
    parts: tuple[Part, ...] = (),
    **values: str,
) -> list[Any]:
    """Hits of a search whose keys are keywords, with two underscores for a dot."""
    tags = {tag_of(keyword.replace("__", ".")) or keyword: value for keyword, value in values.items()}
    wanted = Search(
        level=level,
        under=under,
        conditions=tuple(
            parse(tags, zone=zone, is_fuzzy=is_fuzzy, empty_values=empty_values, multiple_values=multiple_values)
        ),
        zone=zone,
        limit=limit,
        offset=offset,
        after=after,
        parts=parts,
    )
    with engine.connect() as connection:
        return list(search(connection, scope, wanted))


def value(row: bytes, tag: str) -> Any:
    """The first value of an attribute in a stored row."""
    return orjson.loads(row.replace(BASE_URL_MARK.encode(), b"http://host"))[tag].get("Value", [None])[0]


def studies(engine: sa.Engine, **kwargs: Any) -> list[str]:
    """Study IDs of the studies that match, in their order."""
    return [value(hit.study_row, "00200010") for hit in find(engine, parts=("study.row",), **kwargs)]


NEWEST_FIRST = ["yamada", "nord", "john", "doe", "jane", "hans", "undated"]


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        # single values: exact, in the case they have
        ({"AccessionNumber": "ACC-1"}, "nord hans"),
        ({"AccessionNumber": "acc-1"}, "doe"),
        ({"AccessionNumber": " ACC-1 "}, "nord hans"),
        ({"AccessionNumber": "ACC"}, ""),
        ({"PatientID": "P1"}, "nord hans"),
        ({"PatientID": "P1", "PatientSex": "M"}, "hans"),
        ({"PatientSex": "m"}, ""),
        ({"StudyInstanceUID": UIDS["doe"]}, "doe"),
        ({"StudyDescription": "CT Thorax"}, "hans"),
        ({"PatientBirthDate": "19500101"}, "hans"),
        ({"StudyID": "doe"}, "doe"),
        ({"NumberOfStudyRelatedSeries": "2"}, "jane"),
        ({"NumberOfStudyRelatedInstances": "1\\2", "PatientSex": "F"}, "jane"),
        # lists
        ({"StudyInstanceUID": f"{UIDS['doe']},{UIDS['hans']}"}, "doe hans"),
        ({"StudyInstanceUID": f"{UIDS['doe']}\\{UIDS['hans']}\\1.2.3"}, "doe hans"),
        ({"PatientID": "P3\\P5"}, "yamada doe"),
        ({"AccessionNumber": "acc-1\\A!*"}, "john doe"),
        # wild cards: case counts, and what SQL thinks special is not
        ({"AccessionNumber": "ACC*"}, "yamada nord jane hans"),
        ({"AccessionNumber": "*-1"}, "nord doe hans"),
        ({"AccessionNumber": "ACC?2"}, "yamada jane"),
        ({"AccessionNumber": "ACC_2"}, "jane"),
        ({"AccessionNumber": "ACC_?"}, "jane"),
        ({"AccessionNumber": "A!*"}, "john"),
        ({"AccessionNumber": "*!*"}, "john"),
        ({"AccessionNumber": "?CC*1"}, "nord hans"),
        ({"StudyDescription": "*100%*"}, "doe"),
        ({"StudyDescription": "*0%K*"}, ""),
        ({"StudyDescription": "%"}, ""),
        ({"StudyDescription": "**Kopf"}, "doe jane"),
        # names: without case and accents, in any component group or in the one that is named
        ({"PatientName": "müller^hans"}, "hans"),
        ({"PatientName": "MULLER^HANS^^^"}, "hans"),
        ({"PatientName": "muller"}, ""),
        ({"PatientName": "*müll*"}, "jane hans"),
        ({"PatientName": "Mu?ler^*"}, "jane hans"),
        ({"PatientName": "*^jane*"}, "jane"),
        ({"PatientName": "Doe^*"}, "john doe"),
        ({"PatientName": "Doe*"}, "john doe"),
        ({"PatientName": "Doe"}, "doe"),
        ({"PatientName": "*^*"}, " ".join(NEWEST_FIRST)),
        ({"PatientName": "山田*"}, "yamada"),
        ({"PatientName": "やまだ^たろう"}, "yamada"),
        ({"PatientName": "yamada^tarou=山田^太郎"}, "yamada"),
        ({"PatientName": "=山田*"}, "yamada"),
        ({"PatientName": "山田*="}, ""),
        ({"PatientName": "Yamada*=田中*"}, ""),
        ({"PatientName": "*=*"}, " ".join(NEWEST_FIRST)),
        ({"PatientName": "^^^^"}, " ".join(NEWEST_FIRST)),
        ({"PatientName": "Doe\\Müller*"}, "doe jane hans"),
        ({"ReferringPhysicianName": "gross^*"}, "hans"),
        ({"ReferringPhysicianName": "müller*"}, ""),
        # dates
        ({"StudyDate": "20200105"}, "jane hans"),
        ({"StudyDate": "2020.01.05"}, "jane hans"),
        ({"StudyDate": "20200106-20200108"}, "nord john doe"),
        ({"StudyDate": "20200108-20200106"}, ""),
        ({"StudyDate": "20200108-"}, "yamada nord"),
        ({"StudyDate": "-20200105"}, "jane hans"),
        ({"StudyDate": "20200105\\20200110-"}, "yamada jane hans"),
        # times: what is not precise spans all it may mean
        ({"StudyTime": "12"}, "jane"),
        ({"StudyTime": "120000"}, "jane"),
        ({"StudyTime": "120000.5"}, "jane"),
        ({"StudyTime": "120000.4"}, ""),
        ({"StudyTime": "0800-12"}, "nord jane hans undated"),
        ({"StudyTime": "1830-"}, "john doe"),
        ({"StudyTime": "-0900"}, "hans undated"),
        ({"StudyTime": "23-01"}, ""),
        # a range of dates and one of times are one range
        ({"StudyDate": "20200105-20200106", "StudyTime": "1000-1800"}, "jane"),
        ({"StudyDate": "20200105-20200107", "StudyTime": "1000-0900"}, "doe jane"),
        ({"StudyDate": "20200106-", "StudyTime": "1900-"}, "yamada nord john"),
        ({"StudyDate": "-20200106", "StudyTime": "-0900"}, "jane hans"),
        # ranges of different forms are not
        ({"StudyDate": "20200105-20200107", "StudyTime": "1800-"}, "john doe"),
        ({"StudyDate": "20200105", "StudyTime": "1000-1300"}, "jane"),
        # universal matching
        ({"PatientName": "", "PatientID": "*", "StudyDate": "**"}, " ".join(NEWEST_FIRST)),
        ({"StudyInstanceUID": ","}, " ".join(NEWEST_FIRST)),
        # what the study has series of
        ({"ModalitiesInStudy": "SR"}, "jane"),
        ({"ModalitiesInStudy": "CT"}, "nord doe hans"),
        ({"ModalitiesInStudy": "CT,US"}, "yamada nord doe hans"),
        ({"ModalitiesInStudy": "MR\\SR"}, "jane"),
        ({"ModalitiesInStudy": "*T"}, "nord john doe hans undated"),
        ({"ModalitiesInStudy": "ct"}, ""),
        ({"SOPClassesInStudy": MR_IMAGE}, "jane"),
        ({"SOPClassesInStudy": MR_IMAGE[:-1]}, ""),
        ({"SOPClassesInStudy": f"{MR_IMAGE},{CT}"}, " ".join(NEWEST_FIRST)),
    ],
)
def test_a_value_matches_what_the_standard_says(archive: sa.Engine, keys: dict[str, str], found: str) -> None:
    assert studies(archive, **keys) == found.split()


FUZZY = [
    "Müller^Hans",
    "MUELLER^Hans Peter",
    "Miller^Jane",
    "Smyth^John",
    "John^Smith",
    "Maier^Anna",
    "Meyer-Schmidt^Anna",
    "O'Brien^Pat",
    "OBrien^Patrick",
    "Li^Wei=李^伟=り^うぇい",
    "Lee^Wei",
    "Doe^John Smithson",
]


@pytest.fixture(scope="module")
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, sa.Engine]]:
    """Catalogs of both kinds with patients whose names sound alike, that no test changes."""
    path = tmp_path_factory.mktemp("named") / "catalog.sqlite"
    shutil.copy(request.getfixturevalue("sqlite_template"), path)
    urls = {"sqlite": f"sqlite:///{path}"}
    urls["postgres"] = request.getfixturevalue("postgres").new_database(request.getfixturevalue("postgres_template"))
    engines = {kind: open_engine(url) for kind, url in urls.items()}
    for engine in engines.values():
        fill(
            engine,
            *(header(StudyID=name, PatientName=name) for name in FUZZY),
            header(StudyID="two readers", NameOfPhysiciansReadingStudy=["Smith^Anna", "Doe^Peter"]),
        )
    yield engines
    for engine in engines.values():
        engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        # by sound, without accents, in whatever case
        ("muller", "Müller^Hans|MUELLER^Hans Peter|Miller^Jane"),
        ("Mueller", "Müller^Hans|MUELLER^Hans Peter|Miller^Jane"),
        ("MÜLLER^HANS", "Müller^Hans|MUELLER^Hans Peter"),
        ("meier", "Maier^Anna|Meyer-Schmidt^Anna"),
        # in whatever order and component
        ("Hans Müller", "Müller^Hans|MUELLER^Hans Peter"),
        ("Smith^John", "Smyth^John|John^Smith|Doe^John Smithson"),
        ("Peter", "MUELLER^Hans Peter"),
        ("Schmitt^^^Anna", "Meyer-Schmidt^Anna"),
        # by how a word begins
        ("smiths", "Doe^John Smithson"),
        ("han mül", "Müller^Hans"),
        ("x", ""),
        # compounds as one word and as several
        ("o'brien", "O'Brien^Pat|OBrien^Patrick"),
        ("obrien", "O'Brien^Pat|OBrien^Patrick"),
        ("brien", "O'Brien^Pat"),
        ("meyer schmidt", "Meyer-Schmidt^Anna"),
        ("schmidt-meyer", "Meyer-Schmidt^Anna"),
        # what is too short has no sound
        ("li", "Li^Wei=李^伟=り^うぇい"),
        ("Wei", "Li^Wei=李^伟=り^うぇい|Lee^Wei"),
        # other scripts by their own words, in their own component group
        ("李", "Li^Wei=李^伟=り^うぇい"),
        ("伟 李", "Li^Wei=李^伟=り^うぇい"),
        ("Wei=李", "Li^Wei=李^伟=り^うぇい"),
        ("李=", ""),
        ("Doe=李", ""),
        # wild cards find what they find literally, and what their words say
        ("*muell*", "MUELLER^Hans Peter"),
        ("*ülle*", "Müller^Hans"),
        ("*ueller*", "MUELLER^Hans Peter"),
        ("mu?ler*", "Müller^Hans"),
        ("Smith^*", "Smyth^John|John^Smith|Doe^John Smithson"),
        ("s*h^john", "Smyth^John"),
        ("*^^*", "|".join([*FUZZY, "two readers"])),
        # lists
        ("Li^Wei\\Doe", "Li^Wei=李^伟=り^うぇい|Doe^John Smithson"),
    ],
)
def test_a_fuzzy_name_matches_by_its_words_and_sounds(
    named: dict[str, sa.Engine], kind: str, value: str, found: str
) -> None:
    assert set(studies(named[kind], is_fuzzy=True, PatientName=value)) == set(found.split("|")) - {""}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize("value", ["Hans Mueller", "Smith J*", "Wei Li", "Anna Smyth", "mary o'brien", "peter hans"])
def test_words_that_all_are_common_find_what_a_rare_one_leads_to(
    named: dict[str, sa.Engine], kind: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    led = studies(named[kind], is_fuzzy=True, PatientName=value)
    read_by = studies(named[kind], is_fuzzy=True, NameOfPhysiciansReadingStudy=value)
    assert led or read_by or value == "mary o'brien"
    monkeypatch.setattr("storage.catalog.search._FEW", 0)
    assert studies(named[kind], is_fuzzy=True, PatientName=value) == led
    assert studies(named[kind], is_fuzzy=True, NameOfPhysiciansReadingStudy=value) == read_by


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_words_of_a_fuzzy_name_are_of_one_person(named: dict[str, sa.Engine], kind: str) -> None:
    def found(value: str) -> list[str]:
        return studies(named[kind], is_fuzzy=True, NameOfPhysiciansReadingStudy=value)

    assert found("Anna Smyth") == found("Doe") == ["two readers"]
    assert found("Anna Doe") == []


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize("level", ["series", "instance"])
def test_a_fuzzy_name_is_matched_at_every_level(named: dict[str, sa.Engine], kind: str, level: Level) -> None:
    assert len(find(named[kind], level, is_fuzzy=True, PatientName="Hans Mueller")) == 2


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"PatientName": '""'}, "undated"),
        ({"PatientID": '""'}, "undated"),
        ({"StudyDate": '""'}, "undated"),
        ({"StudyTime": '""'}, "yamada"),
        ({"PatientSex": '""', "StudyDate": "20200108-"}, "yamada nord"),
        ({"ReferringPhysicianName": '""', "PatientID": "P1"}, "nord"),
        ({"ModalitiesInStudy": '""'}, ""),
    ],
)
def test_two_quotes_match_what_has_no_value_if_that_was_asked_for(
    archive: sa.Engine, keys: dict[str, str], found: str
) -> None:
    assert studies(archive, empty_values=True, **keys) == found.split()


def test_two_quotes_are_a_value_like_any_other_if_it_was_not(archive: sa.Engine) -> None:
    assert studies(archive, PatientID='""') == []


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"ModalitiesInStudy": "MR\\SR"}, "jane"),
        ({"ModalitiesInStudy": "SR,MR"}, "jane"),
        ({"ModalitiesInStudy": "MR\\CT"}, ""),
        ({"ModalitiesInStudy": "MR"}, "jane"),
        ({"ModalitiesInStudy": "CT\\*"}, "nord doe hans"),
        # of what has one value at most, and of UIDs, any of a list
        ({"PatientID": "P3\\P5"}, "yamada doe"),
        ({"SOPClassesInStudy": f"{MR_IMAGE},1.2.3"}, "jane"),
        ({"StudyInstanceUID": f"{UIDS['doe']},{UIDS['hans']}"}, "doe hans"),
    ],
)
def test_all_values_of_a_list_have_to_be_there_if_that_was_asked_for(
    archive: sa.Engine, keys: dict[str, str], found: str
) -> None:
    assert studies(archive, multiple_values=True, **keys) == found.split()


def test_wild_cards_agree_with_a_regular_expression_on_any_text(engine: sa.Engine) -> None:
    draw = random.Random(20200105)
    texts = sorted({"".join(draw.choices("aAb%_!é*?", k=draw.randint(1, 6))) for _ in range(60)})
    fill(engine, *(header(StudyID=str(n), AccessionNumber=text) for n, text in enumerate(texts)))
    for _ in range(150):
        pattern = "".join(draw.choices("aAb%_!é**?", k=draw.randint(1, 6)))
        if not pattern.strip("*"):
            continue
        wild = re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern))
        expected = {str(n) for n, text in enumerate(texts) if wild.fullmatch(text)}
        assert set(studies(engine, AccessionNumber=pattern)) == expected, pattern


@pytest.mark.parametrize(
    ("keys", "right"),
    [
        ({"StudyDate": "2020"}, "YYYYMMDD"),
        ({"StudyDate": "2020*"}, "YYYYMMDD"),
        ({"StudyDate": "20200101-20200102-20200103"}, "YYYYMMDD"),
        ({"StudyDate": "20200230"}, "YYYYMMDD"),
        ({"StudyDate": "-"}, "YYYYMMDD"),
        ({"StudyTime": "25"}, "HHMMSS"),
        ({"StudyTime": "noon"}, "HHMMSS"),
        ({"NumberOfStudyRelatedSeries": "two"}, "whole number"),
        ({"NumberOfStudyRelatedSeries": "9" * 30}, "whole number"),
        ({"PatientID": "a\0b"}, "NUL"),
        ({"PatientID": "*" + "x" * 600}, "512 characters"),
        ({"PatientName": "a=b=c=d"}, "three component groups"),
        ({"StudyInstanceUID": ",".join(["1.2"] * 1001)}, "1000 values"),
        ({"PatientID": "\\".join(["a*"] * 25)}, "24 values"),
    ],
)
def test_a_value_that_cannot_be_matched_is_refused_without_repeating_it(keys: dict[str, str], right: str) -> None:
    with pytest.raises(Invalid, match=right) as refused:
        parse({tag_of(keyword) or "": text for keyword, text in keys.items()})
    assert next(iter(keys.values())) not in refused.value.message


@pytest.mark.parametrize("vr", sorted(MATCHED_VRS))
def test_each_vr_has_the_kinds_of_matching_that_are_told_of_it(vr: str) -> None:
    key = listed_key("00189999", vr, "instance")
    value = {"DA": "20240229", "TM": "1030", "DT": "2024022910", "AS": "040Y", "AT": "00100010", "UI": "1.2"}.get(
        vr, "7"
    )

    def hows(text: str) -> set[How]:
        try:
            conditions = parse({key.name: text}, keys={key.name: key}, is_fuzzy=True)
        except Invalid:
            return set()
        return {term.how for condition in conditions for alternative in condition for term in alternative}

    kinds = MATCHING[vr]
    assert hows(value)
    assert ("wild card" in kinds) == bool(hows("7*7") & {How.LIKE, How.PREFIX})
    assert ("range" in kinds) == (How.BETWEEN in hows(f"{value}-"))
    assert ("list of UIDs" in kinds) == (vr != "CS" and How.ANY_OF in hows(f"{value},{value}"))
    assert ("fuzzy" in kinds) == (How.WORD in hows("word"))


def test_many_uids_are_matched_at_once(archive: sa.Engine) -> None:
    uids = [*(f"1.2.{n}" for n in range(990)), UIDS["hans"], UIDS["doe"]]
    assert studies(archive, StudyInstanceUID=",".join(uids)) == ["doe", "hans"]


# -- time zones


def test_dates_and_times_in_a_zone_are_moments_for_studies_that_say_theirs(engine: sa.Engine) -> None:
    fill(
        engine,
        header(StudyID="kolkata", StudyDate="20200102", StudyTime="0100", TimezoneOffsetFromUTC="+0530"),
        header(StudyID="berlin", StudyDate="20200101", StudyTime="2030", TimezoneOffsetFromUTC="+0100"),
        header(StudyID="boston", StudyDate="20200101", StudyTime="1430", TimezoneOffsetFromUTC="-0500"),
        header(StudyID="unsaid", StudyDate="20200101", StudyTime="1930"),
        header(StudyID="boston later", StudyDate="20200101", StudyTime="2330", TimezoneOffsetFromUTC="-0500"),
        header(StudyID="no time", StudyDate="20200101", TimezoneOffsetFromUTC="+0000"),
    )
    # All four are 19:30 in UTC on the first, but for who does not say.
    same = {"kolkata", "berlin", "boston", "unsaid"}
    assert set(studies(engine, zone="+0000", StudyDate="20200101", StudyTime="1930")) == same
    assert set(studies(engine, zone="+0000", StudyDate="20200101", StudyTime="1900-2000")) == same
    assert set(studies(engine, zone="+0000", StudyDate="20200101-20200101", StudyTime="1900-2000")) == same
    assert set(studies(engine, zone="+0000", StudyTime="1900-2000")) == same
    assert set(studies(engine, zone="+0000", StudyDate="20200101")) == same | {"no time"}
    assert set(studies(engine, zone="+0000", StudyDate="20200102")) == {"boston later"}
    assert set(studies(engine, zone="+0000", StudyDate="20200102-")) == {"boston later"}
    assert set(studies(engine, zone="-0500", StudyDate="-20200101", StudyTime="-1500")) == same - {"unsaid"} | {
        "no time"
    }
    # 23:30 in Boston is 04:30 in UTC: a span of times that crosses midnight there.
    assert set(studies(engine, zone="+0000", StudyTime="0400-0500")) == {"boston later"}
    assert set(studies(engine, zone="+0000", StudyTime="0400-0630")) == {"boston later"}
    assert set(studies(engine, zone="+0000", StudyTime="0430-")) == same | {"boston later"}
    # Without a zone, each study's own clock counts.
    assert set(studies(engine, StudyDate="20200101", StudyTime="1930")) == {"unsaid"}
    # A birth date is no moment.
    assert parse({"00100030": "19500101"}, zone="+0000") == parse({"00100030": "19500101"})


def test_a_time_of_a_series_in_a_zone_is_looked_up_in_its_own_study(engine: sa.Engine) -> None:
    early, late = (
        header(StudyDate="20200101", SeriesDate="20200101", SeriesTime=time, SeriesDescription=time)
        for time in ("0900", "2100")
    )
    fill(engine, early, late)
    hits = find(engine, "series", zone="+0100", SeriesTime="0830-1000", parts=("series.row",))
    assert [value(hit.series_row, "0008103E") for hit in hits] == ["0900"]


@pytest.mark.parametrize("zone", ["0100", "+1", "+2500", "CET", "+0160"])
def test_a_zone_that_is_none_is_refused(archive: sa.Engine, zone: str) -> None:
    with pytest.raises(Invalid, match="TimezoneOffsetFromUTC"):
        studies(archive, zone=zone, StudyDate="20200101")


# -- series and instances


def test_series_come_by_number_below_a_study_and_those_without_one_last(engine: sa.Engine) -> None:
    study = new_uid()
    fill(
        engine,
        *(header(StudyInstanceUID=study, SeriesDescription=text, SeriesNumber=n) for text, n in (("b", 10), ("a", 9))),
        header(StudyInstanceUID=study, SeriesDescription="none"),
        header(StudyInstanceUID=new_uid(), SeriesDescription="other", SeriesNumber=1),
    )
    hits = find(engine, "series", under=(study,), parts=("series.row",))
    assert [value(hit.series_row, "0008103E") for hit in hits] == ["a", "b", "none"]
    assert [hit.id for hit in find(engine, "series", under=(study,), limit=1, offset=1)] == [hits[1].id]


def test_instances_come_by_number_below_their_series_and_series_by_theirs(engine: sa.Engine) -> None:
    study, first, second = new_uid(), new_uid(), new_uid()

    def instance(series: str, series_number: int, number: int | None) -> dict[str, Any]:
        numbers = {} if number is None else {"InstanceNumber": number}
        return header(StudyInstanceUID=study, SeriesInstanceUID=series, SeriesNumber=series_number, **numbers)

    fill(engine, *(instance(second, 2, n) for n in (2, 1)), *(instance(first, 1, n) for n in (10, None, 9)))
    hits = find(engine, "instance", under=(study,))
    assert [(hit.series_uid, hit.instance_number) for hit in hits] == [
        (first, 9),
        (first, 10),
        (first, None),
        (second, 1),
        (second, 2),
    ]
    assert find(engine, "instance", under=(study, second)) == hits[3:]
    assert find(engine, "instance", under=(new_uid(), second)) == []
    assert find(engine, "instance", under=(study,), limit=2, offset=2) == hits[2:4]


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"Modality": "CT"}, "a"),
        ({"Modality": "*"}, "a b"),
        ({"Modality": '""'}, "b"),
        ({"SeriesNumber": "3"}, "a"),
        ({"SeriesNumber": "+3\\4"}, "a"),
        ({"SeriesDescription": "Lung*"}, "a"),
        ({"BodyPartExamined": "CHEST"}, "a"),
        ({"Laterality": "L"}, "a"),
        ({"SeriesDate": "20200101-", "SeriesTime": "1000-"}, "a"),
        ({"PerformedProcedureStepStartDate": "20200102", "PerformedProcedureStepStartTime": "11"}, "a"),
        ({"NumberOfSeriesRelatedInstances": "2"}, "b"),
        ({"RequestAttributesSequence__ScheduledProcedureStepID": "S1"}, "a"),
        ({"RequestAttributesSequence__ScheduledProcedureStepID": "S?"}, "a"),
        ({"RequestAttributesSequence__ScheduledProcedureStepID": '""'}, "b"),
        ({"RequestAttributesSequence__AccessionNumber": '""'}, "a b"),
        ({"00400275__00401001": "R2"}, "a"),
        # both keys of one item: PS3.4 C.2.2.2.6
        ({"00400275__00400009": "S2", "00400275__00401001": "R2"}, "a"),
        ({"00400275__00400009": "S1", "00400275__00401001": "R2"}, ""),
        # keys of the levels above
        ({"PatientName": "doe*", "Modality": "CT"}, "a"),
        ({"PatientName": "müller*", "Modality": "CT"}, ""),
        ({"StudyDate": "20191231-20200102", "StudyTime": "10-11"}, "a b"),
        ({"ModalitiesInStudy": "CT"}, "a b"),
    ],
)
def test_series_are_matched_by_their_own_keys_and_their_studys(
    engine: sa.Engine, keys: dict[str, str], found: str
) -> None:
    study, series = new_uid(), new_uid()
    above = {"StudyInstanceUID": study, "PatientName": "Doe^Jane", "StudyDate": "20200101", "StudyTime": "0930"}
    fill(
        engine,
        header(
            **above,
            Modality="CT",
            SeriesNumber=3,
            SeriesDescription="Lung a",
            BodyPartExamined="CHEST",
            Laterality="L",
            SeriesDate="20200101",
            SeriesTime="1000",
            PerformedProcedureStepStartDate="20200102",
            PerformedProcedureStepStartTime="1130",
            RequestAttributesSequence=[
                {"ScheduledProcedureStepID": "S1", "RequestedProcedureID": "R1"},
                {"ScheduledProcedureStepID": "S2", "RequestedProcedureID": "R2"},
            ],
        ),
        *(header(**above, SeriesInstanceUID=series, SeriesDescription="b") for _ in range(2)),
        header(Modality="PT", StudyDate="20190101"),
    )
    hits = find(engine, "series", under=(study,), parts=("series.row",), empty_values=True, **keys)
    assert [value(hit.series_row, "0008103E")[-1] for hit in hits] == found.split()


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"SOPClassUID": CT}, {1, 2}),
        ({"SOPClassUID": f"{CT},{MR_IMAGE}"}, {1, 2, 3}),
        ({"InstanceNumber": "2"}, {2}),
        ({"ContentDate": "20200101", "ContentTime": "10"}, {1}),
        ({"Rows": "512"}, {1, 3}),
        ({"Columns": "256\\128"}, {2}),
        ({"BitsAllocated": "16"}, {1}),
        ({"NumberOfFrames": "0"}, {1, 2, 3}),
        ({"InstanceNumber": '""'}, set()),
        ({"Modality": "CT"}, {1, 2}),
        ({"PatientID": "P1"}, {1, 2}),
        ({"PatientID": "P1", "InstanceNumber": "3"}, set()),
    ],
)
def test_instances_are_matched_by_keys_of_every_level(engine: sa.Engine, keys: dict[str, str], found: set[int]) -> None:
    study, series = new_uid(), new_uid()
    above = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "PatientID": "P1", "Modality": "CT"}
    fill(
        engine,
        header(
            **above,
            InstanceNumber=1,
            ContentDate="20200101",
            ContentTime="1030",
            Rows=512,
            Columns=512,
            BitsAllocated=16,
        ),
        header(**above, InstanceNumber=2, ContentDate="20200102", ContentTime="1030", Rows=256, Columns=256),
        header(InstanceNumber=3, SOPClassUID=MR_IMAGE, Rows=512, Columns=512, BitsAllocated=8),
    )
    assert {hit.instance_number for hit in find(engine, "instance", empty_values=True, **keys)} == found


def test_only_the_current_version_of_an_instance_is_found(engine: sa.Engine) -> None:
    uids = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid(), "SOPInstanceUID": new_uid()}
    fill(engine, header(**uids, InstanceNumber=1), header(**uids, InstanceNumber=2))
    assert [hit.instance_number for hit in find(engine, "instance")] == [2]


def test_what_all_instances_have_left_is_not_found(engine: sa.Engine) -> None:
    instance, old, new = new_uid(), new_uid(), new_uid()
    fill(
        engine,
        header(SOPInstanceUID=instance, StudyInstanceUID=old, StudyID="old", Modality="MR", StudyDate="20200101"),
    )
    fill(engine, header(SOPInstanceUID=instance, StudyInstanceUID=new, StudyID="new", Modality="CT"))
    assert studies(engine) == ["new"]
    assert studies(engine, StudyInstanceUID=old) == studies(engine, ModalitiesInStudy="MR") == []
    assert len(find(engine, "series")) == len(find(engine, "instance")) == 1
    assert find(engine, "series", under=(old,)) == []


# -- order, pages and scope


def test_studies_come_newest_first_and_those_without_a_date_last(archive: sa.Engine) -> None:
    assert studies(archive) == NEWEST_FIRST


def test_pages_by_offset_make_the_whole(archive: sa.Engine) -> None:
    pages = [studies(archive, limit=2, offset=offset) for offset in range(0, 10, 2)]
    assert list(itertools.chain.from_iterable(pages)) == NEWEST_FIRST


@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_pages_by_the_key_of_the_last_hit_make_the_whole_while_others_arrive(engine: sa.Engine, level: Level) -> None:
    fill(engine, *(header(StudyDate=f"2020010{n % 3 + 1}") for n in range(7)), header())
    whole = [hit.id for hit in find(engine, level)]
    assert len(whole) == 8
    seen: list[str] = []
    after = None
    while page := find(engine, level, limit=3, after=after):
        seen += [hit.id for hit in page]
        after = order_key(level, page[-1])
        fill(engine, header(StudyDate="20210101"))
    assert seen == whole


@pytest.mark.parametrize("level", ["series", "instance"])
def test_pages_below_a_study_go_by_number_whatever_arrives(engine: sa.Engine, level: Level) -> None:
    study, series = new_uid(), [new_uid() for _ in range(3)]
    numbers = [(series[s], s or None, i) for s in range(3) for i in (-1, 2, 10, None)]

    def instance(series_uid: str, series_number: int | None, number: int | None) -> Any:
        given = {"SeriesNumber": series_number, "InstanceNumber": number}
        uids = {"StudyInstanceUID": study, "SeriesInstanceUID": series_uid}
        return header(**uids, **{name: value for name, value in given.items() if value is not None})

    fill(engine, *itertools.starmap(instance, numbers))
    whole = [hit.id for hit in find(engine, level, under=(study,))]
    seen: list[str] = []
    after = None
    while page := find(engine, level, under=(study,), limit=2, after=after):
        seen += [hit.id for hit in page]
        after = order_key(level, page[-1], is_under=True)
        fill(engine, instance(new_uid(), -5, 1))  # before everything: seen by nobody who has passed it
    assert seen == whole
    assert len(whole) == (3 if level == "series" else 12)


def test_a_scope_sees_its_facilities_and_nothing_else(archive: sa.Engine) -> None:
    def seen(*facilities: str, **keys: str) -> list[str]:
        return studies(archive, scope=Scope(facilities=frozenset(facilities)), **keys)

    assert seen("north") == ["nord"]
    assert seen("local") == [name for name in NEWEST_FIRST if name != "nord"]
    assert seen("local", "north") == NEWEST_FIRST
    assert seen("elsewhere") == seen() == []
    assert seen("local", AccessionNumber="ACC-1") == ["hans"]
    assert seen("north", "elsewhere", AccessionNumber="ACC-1") == ["nord"]
    assert seen("local", "north", PatientID="P1") == ["nord", "hans"]
    for level in ("series", "instance"):
        north = Scope(facilities=frozenset({"north"}))
        assert len(find(archive, level, scope=north)) == 1
        assert find(archive, level, scope=north, under=(UIDS["hans"],)) == []
        assert len(find(archive, level, scope=north, under=(UIDS["nord"],))) == 1


# -- the way in


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("ix_study_study_uid", {"StudyInstanceUID": UIDS["doe"]}),
    ("ix_study_accession", {"AccessionNumber": "ACC-1"}),
    ("ix_study_accession", {"AccessionNumber": "ACC-1", "scope": Scope(facilities=frozenset({"local"}))}),
    ("ix_study_accession", {"AccessionNumber": "ACC-1", "scope": Scope(facilities=frozenset({"local", "north"}))}),
    ("ix_study_accession", {"AccessionNumber": "ACC*"}),
    ("ix_study_patient_id", {"PatientID": "P1", "StudyDate": "20200101-"}),
    ("study_value", {"PatientName": "Doe"}),
    ("study_value", {"PatientName": "Doe*"}),
    ("study_value", {"PatientName": "*müll*"}),
    ("study_value", {"PatientName": "Müller Hans", "is_fuzzy": True}),
    ("study_value", {"PatientName": "*müller*", "is_fuzzy": True, "scope": Scope(facilities=frozenset({"local"}))}),
    ("ix_study_date", {}),
    ("ix_study_date", {"offset": 1000}),
    ("ix_study_date", {"after": ("20200105", "0")}),
    ("ix_study_date", {"scope": Scope(facilities=frozenset({"local", "north"}))}),
    ("ix_study_facility_date", {"scope": Scope(facilities=frozenset({"local"}))}),
    ("ix_study_date", {"StudyDate": "20200105-20200107", "ModalitiesInStudy": "CT"}),
    ("ix_series_study_modality", {"StudyDate": "20200105-20200107", "ModalitiesInStudy": "CT"}),
    ("ix_study_study_uid", {"level": "series", "under": (UIDS["jane"],)}),
    ("ix_series_series_uid", {"level": "series", "SeriesInstanceUID": "1.2.3"}),
    ("ix_instance_series", {"level": "instance", "under": (UIDS["jane"], "1.2.3")}),
    ("ix_instance_instance_uid", {"level": "instance", "SOPInstanceUID": "1.2.3"}),
    ("series_value", {"level": "series", "RequestAttributesSequence__ScheduledProcedureStepID": "S1"}),
]


@pytest.mark.parametrize(("index", "asked"), WAYS)
def test_the_usual_searches_go_by_an_index(archive: sa.Engine, index: str, asked: dict[str, Any]) -> None:
    plan = _plan(archive, asked)
    if archive.dialect.name == "sqlite":
        assert index in plan
        scans = {line.split()[1] for line in plan.splitlines() if line.startswith("SCAN") and "INDEX" not in line}
        assert not scans & set(t.metadata.tables)
    else:  # which index it takes depends on what is in the tables; that there is one does not
        assert "Seq Scan" not in plan


def _plan(engine: sa.Engine, asked: dict[str, Any]) -> str:
    """How the database would go about a search; PostgreSQL as if its tables were large."""
    asked_for: list[tuple[str, Any]] = []

    def keep(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked_for.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", keep)
    try:
        find(engine, **asked)
    finally:
        event.remove(engine, "before_cursor_execute", keep)
    statement, parameters = asked_for[-1]
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
        else:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
            rows = connection.exec_driver_sql("EXPLAIN " + statement, parameters).all()
    return "\n".join(row[-1] for row in rows)


# -- real files


def test_every_real_file_is_found_by_what_its_header_says(engine: sa.Engine, corpus: object) -> None:
    headers: dict[str, Any] = {}
    for entry in entries():
        try:
            found = scan(entry.read())
        except ReadingRoomError:
            continue
        if found.category:
            continue
        fill(engine, found.metadata)
        headers[first(found.metadata, "00080018")] = found.metadata
    assert len(headers) > 200
    for instance_uid, metadata in headers.items():
        assert [hit.instance_uid for hit in find(engine, "instance", SOPInstanceUID=instance_uid)] == [instance_uid]
        (study,) = find(engine, StudyInstanceUID=first(metadata, "0020000D"), parts=("study.row",))
        assert value(study.study_row, "0020000D") == first(metadata, "0020000D")
    # The row of a study is that of its first header, and so is what it is found by.
    for study in find(engine, limit=1000, parts=("study.row",)):
        for tag, key in KEYS.items():
            asked = value(study.study_row, tag) if tag in STUDY_ROW else None
            asked = "=".join(asked.values()) if isinstance(asked, dict) else asked
            if not asked or re.search(r"[*?\\]|^=", str(asked)) or (key.vr == "DA" and not normal_day(asked)):
                continue
            found_by = [hit.id for hit in find(engine, limit=1000, **{tag: str(asked)})]
            assert study.id in found_by, (tag, asked)


def first(metadata: Any, tag: str) -> Any:
    """The first value of an attribute in a header."""
    return metadata.get(tag, {}).get("Value", [None])[0]
