"""The SQL of searches finds what a plain matcher finds that looks at every header (PS3.4 C.2.2.2)."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from readingroom.model import Scope
from storage.catalog.engine import open_engine
from storage.catalog.keys import KEYS, Key, tag_of
from storage.catalog.matching import parse
from storage.catalog.normal import fold_name, join_word, name_words, sound_of
from storage.catalog.search import Search, search
from storage.objects import MetadataJson
from tests.catalog import fill, header

# Few values of each kind, so that much of what is asked for is there.
FAMILIES = ["Müller", "Mueller", "Muller", "Meyer-Lee", "Maier", "Lee", "O'Brien", "山田"]
GIVEN = ["Ann", "Anna", "Hans", "Hans Peter", "太郎", ""]
TEXTS = ["A", "AB", "a", "B_1", "B%1", "B!1", "BA", "é"]
CODES = ["C1", "C2", "c1"]
DATES = ["20240228", "20240229", "20240301", "2024.03.02"]
TIMES = ["08", "0830", "083015", "083015.5", "1200", "235959.999999"]
MODALITIES = ["CT", "MR", "SR"]


def made_headers() -> list[MetadataJson]:
    draw = random.Random(2024)

    def maybe(name: str, values: list[Any]) -> dict[str, Any]:
        return {name: draw.choice(values)} if draw.random() < 0.8 else {}

    def name() -> str:
        return f"{draw.choice(FAMILIES)}^{draw.choice(GIVEN)}".rstrip("^")

    def items(*attributes: tuple[str, list[Any]]) -> list[dict[str, Any]]:
        made = [{key: value for one in attributes for key, value in maybe(*one).items()} for _ in range(2)]
        return [item for item in made if item]

    def codes() -> list[dict[str, Any]]:
        return items(("CodeValue", CODES), ("CodingSchemeDesignator", ["L1", "L2"]))

    made = []
    for number in range(60):
        steps = [
            {**step, "RequestedProcedureCodeSequence": codes()} for step in items(("ScheduledProcedureStepID", TEXTS))
        ]
        made.append(
            header(
                SeriesNumber=number,
                **maybe("PatientName", [name(), name() + "=" + name(), ""]),
                **maybe("NameOfPhysiciansReadingStudy", [[name(), name()], name()]),
                **maybe("PatientID", TEXTS),
                **maybe("AccessionNumber", TEXTS),
                **maybe("StudyDate", DATES),
                **maybe("StudyTime", TIMES),
                **maybe("Modality", MODALITIES),
                ProcedureCodeSequence=codes(),
                RequestAttributesSequence=steps,
            )
        )
    return made


HEADERS = made_headers()


@pytest.fixture(scope="module")
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[sa.Engine]]:
    path: Path = tmp_path_factory.mktemp("matching") / "catalog.sqlite"
    shutil.copy(request.getfixturevalue("sqlite_template"), path)
    postgres = request.getfixturevalue("postgres").new_database(request.getfixturevalue("postgres_template"))
    engines = [open_engine(f"sqlite:///{path}"), open_engine(postgres)]
    for engine in engines:
        fill(engine, *HEADERS)
    yield engines
    for engine in engines:
        engine.dispose()


# -- the plain matcher


def values_at(data_set: MetadataJson, path: tuple[str, ...]) -> list[Any]:
    """The values at the end of a path, of all items on the way."""
    found = data_set.get(path[0], {}).get("Value", [])
    if len(path) == 1:
        return [value for value in found if value not in (None, "")]
    return [value for item in found for value in values_at(item, path[1:])]


def groups_of(name: Any) -> list[str]:
    return [fold_name(name.get(group, "")) for group in ("Alphabetic", "Ideographic", "Phonetic")]


def wild(pattern: str, text: str) -> bool:
    return bool(re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), text, re.DOTALL))


def fuzzy(asked: str, texts: list[str]) -> bool:
    """Whether all words asked for begin or sound like words of these component groups of one person."""
    if "?" in asked or re.search(r"\w\*+\w", asked):
        return False
    held = {word for text in texts for parts in name_words(text) for word in (*parts, join_word(parts))}
    sounds = {sound_of(word) for word in held} - {""}

    def is_there(word: str) -> bool:
        return any(one.startswith(word) for one in held) or sound_of(word) in sounds

    words = name_words(asked.replace("*", " "))
    return bool(words) and (
        all(is_there(part) for parts in words for part in parts) or all(is_there(join_word(parts)) for parts in words)
    )


def name_matches(asked: str, name: Any, is_fuzzy: bool) -> bool:
    held = groups_of(name)
    wanted = asked.split("=")
    for index, part in enumerate(wanted):
        folded = fold_name(part)
        if not part.strip(" *^"):
            continue
        texts = [text for text in ([held[index]] if len(wanted) > 1 else held) if text]
        patterns = [folded, folded[:-2]] if folded.endswith("^*") else [folded]
        literal = any(wild(pattern, text) for pattern in patterns for text in texts)
        if not literal and not (is_fuzzy and fuzzy(folded, texts)):
            return False
    return True


def span(vr: str, text: str) -> tuple[str, str]:
    """The first and the last that a date or a time may be."""
    if vr == "DA":
        return text.replace(".", ""), text.replace(".", "")
    digits, _, fraction = text.partition(".")
    return digits.ljust(6, "0") + "." + fraction.ljust(6, "0"), digits.ljust(6, "9") + "." + fraction.ljust(6, "9")


def in_range(vr: str, asked: str, value: str) -> bool:
    first, dash, last = asked.partition("-")
    held = span(vr, value)[0]
    if not dash:
        return span(vr, first)[0] <= held <= span(vr, first)[1]
    return (not first or span(vr, first)[0] <= held) and (not last or held <= span(vr, last)[1])


def one_matches(key: Key, asked: str, value: Any, is_fuzzy: bool) -> bool:
    if key.vr == "PN":
        return name_matches(asked, value, is_fuzzy)
    if key.vr in ("DA", "TM"):
        return in_range(key.vr, asked, value)
    return wild(asked, value)


def holds(key: Key, asked: str, values: list[Any], *, is_fuzzy: bool, empty: bool, multiple: bool) -> bool:
    if empty and asked == '""':
        return not values
    if key.vr == "PN" and any(not one.strip(" *^=") for one in asked.split("\\")):
        return True  # a name that says nothing
    parts = asked.replace(",", "\\").split("\\") if key.vr == "CS" else asked.split("\\")
    together = all if multiple and key.is_multiple else any
    return together(any(one_matches(key, part, value, is_fuzzy) for value in values) for part in parts)


def combined(header: MetadataJson, asked: dict[str, str]) -> bool | None:
    """Date and time as one range (PS3.4 C.2.2.2.5.4); None where they are each for itself."""
    date, time = asked.get("00080020", ""), asked.get("00080030", "")
    if any("-" not in one or "\\" in one for one in (date, time)):
        return None
    ends = [(one.split("-")[0] != "", one.split("-")[1] != "") for one in (date, time)]
    if ends[0] != ends[1]:
        return None
    days = values_at(header, ("00080020",))
    if not days:
        return False
    times = values_at(header, ("00080030",)) or ["00"]
    held = (span("DA", days[0])[0], span("TM", times[0])[0])
    (first_day, last_day), (first, last) = date.split("-"), time.split("-")
    return (not first_day or (span("DA", first_day)[0], span("TM", first)[0]) <= held) and (
        not last_day or held <= (span("DA", last_day)[0], span("TM", last)[1])
    )


def matches(header: MetadataJson, asked: dict[str, str], flags: dict[str, bool]) -> bool:
    asked = dict(asked)
    together = combined(header, asked)
    if together is not None:
        del asked["00080020"], asked["00080030"]
        if not together:
            return False
    in_items: dict[str, dict[str, str]] = {}
    for name, value in asked.items():
        key = KEYS[name]
        is_empty = flags["empty"] and value == '""'
        if len(key.path) > 1 and not is_empty:
            in_items.setdefault(key.path[0], {})[name] = value
            continue
        path = ("00080060",) if name == "00080061" else key.path  # each study here has one series
        if not holds(key, value, values_at(header, path), **renamed(flags)):
            return False
    return all(
        any(item_holds(item, wanted, flags, 1) for item in header.get(tag, {}).get("Value", []))
        for tag, wanted in in_items.items()
    )


def item_holds(item: MetadataJson, wanted: dict[str, str], flags: dict[str, bool], depth: int) -> bool:
    """Whether one item has all that is asked of its own attributes, and one item of each sequence in it the rest."""
    deeper: dict[str, dict[str, str]] = {}
    for name, value in wanted.items():
        path = KEYS[name].path
        if len(path) > depth + 1:
            deeper.setdefault(path[depth], {})[name] = value
        elif not holds(KEYS[name], value, values_at(item, path[depth:]), **renamed(flags)):
            return False
    return all(
        any(item_holds(inner, rest, flags, depth + 1) for inner in item.get(tag, {}).get("Value", []))
        for tag, rest in deeper.items()
    )


def renamed(flags: dict[str, bool]) -> dict[str, bool]:
    return {"is_fuzzy": flags["fuzzy"], "empty": flags["empty"], "multiple": flags["multiple"]}


# -- what is asked for


def lists(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values, min_size=1, max_size=2).map("\\".join)


def patterns(texts: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(texts) | st.text("AaB_%!1é*?", min_size=1, max_size=3).filter(lambda text: text.strip("*"))


def ranges(values: list[str]) -> st.SearchStrategy[str]:
    one = st.sampled_from(values)
    return one | st.tuples(one, one).map("-".join) | one.map(lambda value: value + "-") | one.map(lambda v: "-" + v)


EMPTY = st.just('""')
WORDS = st.sampled_from([*FAMILIES, *filter(None, GIVEN), "mül", "hans", "Meier", "obrien", "lee"])
NAMES = (
    WORDS
    | st.tuples(WORDS, WORDS).map(" ".join)
    | st.tuples(WORDS, WORDS).map("^".join)
    | WORDS.map(lambda word: word + "*")
    | WORDS.map(lambda word: word + "^*")
    | WORDS.map(lambda word: f"*{word[:3]}*")
    | WORDS.map(lambda word: word[0] + "?" + word[2:])
    | st.tuples(WORDS, WORDS).map(lambda two: f"{two[0]}*={two[1]}*")
)
SEQUENCE = "RequestAttributesSequence"
ASKED: dict[str, st.SearchStrategy[str]] = {
    "PatientName": lists(NAMES) | EMPTY,
    "NameOfPhysiciansReadingStudy": lists(NAMES) | EMPTY,
    "PatientID": lists(patterns(TEXTS)) | EMPTY,
    "AccessionNumber": lists(patterns(TEXTS)) | EMPTY,
    "StudyDate": lists(ranges(DATES)) | EMPTY,
    "StudyTime": ranges(TIMES) | EMPTY,
    "ModalitiesInStudy": st.lists(st.sampled_from(MODALITIES), min_size=1, max_size=2).map(",".join) | EMPTY,
    "ProcedureCodeSequence.CodeValue": lists(patterns(CODES)) | EMPTY,
    "ProcedureCodeSequence.CodingSchemeDesignator": st.sampled_from(["L1", "L2", "L?"]),
    f"{SEQUENCE}.ScheduledProcedureStepID": patterns(TEXTS) | EMPTY,
    f"{SEQUENCE}.RequestedProcedureCodeSequence.CodeValue": st.sampled_from(CODES),
    f"{SEQUENCE}.RequestedProcedureCodeSequence.CodingSchemeDesignator": st.sampled_from(["L1", "L2"]),
}
QUERIES = st.lists(st.sampled_from(sorted(ASKED)), min_size=1, max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: ASKED[name] for name in names})
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    query=QUERIES,
    flags=st.fixed_dictionaries({"fuzzy": st.booleans(), "empty": st.booleans(), "multiple": st.booleans()}),
)
def test_a_search_finds_what_a_look_at_every_header_finds(
    engines: list[sa.Engine], query: dict[str, str], flags: dict[str, bool]
) -> None:
    asked = {tag_of(name) or name: value for name, value in query.items()}
    if not flags["empty"]:
        asked = {name: value for name, value in asked.items() if value != '""' or KEYS[name].vr not in ("DA", "TM")}
    expected = sorted(one["00200011"]["Value"][0] for one in HEADERS if matches(one, asked, flags))
    conditions = parse(asked, is_fuzzy=flags["fuzzy"], empty_values=flags["empty"], multiple_values=flags["multiple"])
    wanted = Search(level="series", conditions=tuple(conditions), limit=100)
    for engine in engines:
        with engine.connect() as connection:
            found = sorted(hit.series_number for hit in search(connection, Scope(), wanted))
        assert found == expected, engine.dialect.name


def test_enough_of_what_is_asked_for_is_there() -> None:
    """The property says little if most searches find nothing."""
    draw = random.Random(7)
    hits = 0
    for _ in range(50):
        name, values = draw.choice([("00100020", TEXTS), ("00080050", TEXTS), ("00081032.00080100", CODES)])
        flags = {"fuzzy": False, "empty": False, "multiple": False}
        hits += any(matches(one, {name: draw.choice(values)}, flags) for one in HEADERS)
    assert hits > 40
