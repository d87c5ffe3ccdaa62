"""What is listed of a header, and how the listing of a new attribute goes through what is stored."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from readingroom.errors import Invalid
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.keys import KEYS, Key, Level, configured_key, listed_key, tag_of
from storage.catalog.listed import (
    find_element,
    incomplete,
    keys_at_ingest,
    list_stored,
    progress,
    relist_entities,
    relist_values,
    sync_keys,
    values_of,
)
from storage.catalog.rows import study_row
from tests.catalog import fill, header
from tests.synthetic import new_uid


def listed(metadata: Any, *keys: Key) -> list[tuple[str, str, int]]:
    """Value, item and number of what a header has, without the words of names."""
    return [(value, item, number) for name, value, item, number in values_of(metadata, keys) if name[0] != "~"]


def key(name: str, vr: str = "LO", level: Level = "instance") -> Key:
    return listed_key(tag_of(name) or name, vr, level)


# -- of a header


def test_every_component_group_of_every_name_is_listed() -> None:
    metadata = header(PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", ReferringPhysicianName="=李^白")
    assert listed(metadata, KEYS["00100010"], KEYS["00080090"]) == [
        ("yamada^tarou", "", 0),
        ("山田^太郎", "", 1),
        ("やまだ^たろう", "", 2),
        ("李^白", "", 1),
    ]
    metadata = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "A"}, None, {"Ideographic": "山"}]}}
    assert listed(metadata, KEYS["00100010"]) == [("a", "", 0), ("山", "", 7)]


def test_the_words_of_a_name_are_listed_with_their_sounds() -> None:
    rows = values_of(header(PatientName="Müller-Lee^Hans"), [KEYS["00100010"]])
    words = {value for name, value, _, _ in rows if name == "~00100010"}
    assert words == {"muller", "MLR", "lee", "mullerlee", "MLRL", "hans", "HNS"}


def test_values_of_sequences_know_their_items() -> None:
    metadata = header(
        RequestAttributesSequence=[
            {
                "ScheduledProcedureStepID": "S1",
                "ScheduledProtocolCodeSequence": [{"CodeValue": "A"}, {"CodeValue": "B"}],
            },
            {"RequestedProcedureDescription": "says nothing that is asked for"},
            {"ScheduledProcedureStepID": "S2", "ScheduledProtocolCodeSequence": [{"CodeValue": "A"}]},
        ]
    )
    assert listed(metadata, KEYS["00400275.00400009"]) == [("S1", "0000", 0), ("S2", "0002", 0)]
    assert listed(metadata, key("00400275.00400008.00080100")) == [
        ("A", "00000000", 0),
        ("B", "00000001", 0),
        ("A", "00020000", 0),
    ]


@pytest.mark.parametrize(
    ("keyword", "vr", "given", "values"),
    [
        ("ImageType", "CS", ["ORIGINAL", "PRIMARY", "ORIGINAL"], ["ORIGINAL", "PRIMARY", "ORIGINAL"]),
        ("AcquisitionDate", "DA", "2024.02.29", ["20240229"]),
        ("AcquisitionDate", "DA", "20230229", []),
        ("AcquisitionTime", "TM", "1030", ["103000.000000"]),
        ("PixelSpacing", "DS", ["0.70", "1"], ["0.7", "1"]),
        ("AcquisitionNumber", "IS", "007", ["7"]),
        ("FlipAngle", "DS", "9e1", ["90"]),
        ("ImageComments", "LT", " padded ", ["padded"]),
        ("ImageComments", "LT", "x" * 513, []),
        ("PatientAge", "AS", "040Y", ["040Y"]),
        ("FrameIncrementPointer", "AT", 0x00181063, ["00181063"]),
        ("AcquisitionDateTime", "DT", "202402291030", ["20240229103000.000000", "L20240229103000.000000"]),
        ("AcquisitionDateTime", "DT", "202402290030+0100", ["20240229003000.000000", "Z20240228233000.000000"]),
        ("AcquisitionDateTime", "DT", "soon", []),
    ],
)
def test_values_are_listed_in_the_form_that_is_compared(keyword: str, vr: str, given: Any, values: list[str]) -> None:
    metadata = header(**{keyword: given})
    assert [value for value, _, _ in listed(metadata, key(keyword, vr))] == values


def test_a_moment_has_the_offset_of_its_data_set() -> None:
    metadata = header(AcquisitionDateTime="202402290030", TimezoneOffsetFromUTC="-0500")
    values = [value for value, _, _ in listed(metadata, key("AcquisitionDateTime", "DT"))]
    assert values == ["20240229003000.000000", "Z20240229053000.000000"]


@pytest.mark.parametrize("block", ["10", "A7"])
def test_a_private_attribute_is_found_in_the_block_of_its_creator(block: str) -> None:
    metadata = {
        "00090010": {"vr": "LO", "Value": ["SOMEBODY ELSE"]},
        "00091001": {"vr": "LO", "Value": ["theirs"]},
        f"000900{block}": {"vr": "LO", "Value": ["ACME 1.1"]},
        f"0009{block}01": {"vr": "LO", "Value": ["ours"]},
    }
    ours = configured_key("0009xx01", creator="ACME 1.1", vr="LO")
    assert listed(metadata, ours) == [("ours", "", 0)]
    assert find_element(metadata, ours.name)[0] == f"0009{block}01"
    assert listed({"00091001": metadata["00091001"]}, ours) == []
    metadata["000900B0"] = {"vr": "LO", "Value": ["ACME 1.1"]}
    metadata["0009B002"] = {"vr": "LO", "Value": ["in a second block"]}
    assert listed(metadata, configured_key("0009xx02", creator="ACME 1.1", vr="LO")) == [("in a second block", "", 0)]


def test_a_private_attribute_that_came_without_its_vr_is_read_as_what_it_is() -> None:
    metadata = {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00090010": {"vr": "LO", "Value": ["ACME"]},
        "00091001": {"vr": "UN", "InlineBinary": b64encode("grün\\blau ".encode()).decode()},
        "00091002": {"vr": "UN", "InlineBinary": b64encode(b"\x07\x00").decode()},
        "00091003": {"vr": "UN", "InlineBinary": b64encode(b"\x07").decode()},
    }
    assert listed(metadata, configured_key("0009xx01", creator="ACME", vr="LO")) == [("grün", "", 0), ("blau", "", 1)]
    assert listed(metadata, configured_key("0009xx02", creator="ACME", vr="US")) == [("7", "", 0)]
    assert listed(metadata, configured_key("0009xx03", creator="ACME", vr="US")) == []


def test_an_attribute_with_thousands_of_values_does_not_fill_the_catalog() -> None:
    metadata = {"00080008": {"vr": "CS", "Value": [str(n) for n in range(5000)]}}
    assert len(listed(metadata, key("00080008", "CS"))) == 256
    items = [{"00080100": {"vr": "SH", "Value": [str(n)]}} for n in range(5000)]
    assert len(listed({"00081032": {"vr": "SQ", "Value": items}}, KEYS["00081032.00080100"])) == 256


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Value", "vr", "00080100", "Alphabetic"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([one.split(".")[0] for one in KEYS] + ["00090010", "00091001"]), _JSON))
def test_no_header_is_too_broken(metadata: dict[str, Any]) -> None:
    keys = [one for one in KEYS.values() if one.is_listed]
    values = values_of(metadata, [*keys, configured_key("0009xx01", creator="ACME", vr="DT")])
    assert all(0 < len(value) <= 512 for _, value, _, _ in values)


# -- what can be configured


@pytest.mark.parametrize(
    ("attribute", "given", "name", "vr", "level"),
    [
        ("ConvolutionKernel", {}, "00181210", "SH", "instance"),
        ("00181210", {"level": "series"}, "00181210", "SH", "series"),
        ("PatientAge", {}, "00101010", "AS", "study"),
        ("ProtocolName", {}, "00181030", "LO", "series"),
        ("AnatomicRegionSequence.CodeValue", {}, "00082218.00080100", "SH", "instance"),
        ("0009xx10", {"creator": "GEMS_IDEN_01", "vr": "LO"}, "0009xx10:GEMS_IDEN_01", "LO", "instance"),
        ("00091001", {"creator": "GEMS_IDEN_01"}, "0009xx01:GEMS_IDEN_01", "LO", "instance"),
        ("0019xx02", {"creator": "A.B 5%", "vr": "DS", "level": "study"}, "0019xx02:A%2EB 5%25", "DS", "study"),
    ],
)
def test_an_attribute_is_configured_by_what_is_known_of_it(
    attribute: str, given: Any, name: str, vr: str, level: str
) -> None:
    made = configured_key(attribute, **given)
    assert (made.name, made.vr, made.level) == (name, vr, level)
    assert made is configured_key(attribute, **given)


@pytest.mark.parametrize(
    ("attribute", "given", "says"),
    [
        ("Nonsense", {}, "no keyword"),
        ("", {}, "no keyword"),
        ("PixelData", {}, "OB cannot be matched"),
        ("RequestAttributesSequence", {}, "SQ cannot be matched"),
        ("00091001", {}, "needs its creator"),
        ("00091001", {"creator": "NOBODY KNOWS"}, "give it"),
        ("PatientAge", {"creator": "ACME"}, "not private"),
        ("PatientAge.CodeValue", {}, "has to be a sequence"),
        ("PatientAge", {"vr": "XX"}, "XX cannot be matched"),
    ],
)
def test_what_cannot_be_matched_is_not_configured(attribute: str, given: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        configured_key(attribute, **given)


# -- what is stored already


def values_in(engine: sa.Engine, table: sa.Table, name: str) -> list[str]:
    with engine.connect() as connection:
        return sorted(connection.execute(sa.select(table.c.value).where(table.c.key == name)).scalars())


def waiting(engine: sa.Engine, *keys: Key) -> set[str]:
    with engine.connect() as connection:
        return incomplete(connection, keys)


def test_a_new_key_goes_through_what_is_stored_some_at_a_time(engine: sa.Engine) -> None:
    kernel = configured_key("ConvolutionKernel")
    fill(engine, *(header(ConvolutionKernel=f"K{n}") for n in range(5)))
    assert waiting(engine, kernel) == {kernel.name}
    sync_keys(engine, [kernel])
    assert waiting(engine, kernel) == {kernel.name}
    assert list_stored(engine, at_once=2)
    assert len(values_in(engine, t.instance_value, kernel.name)) == 2
    with engine.connect() as connection:
        assert {one.name: one.remaining for one in progress(connection)} == {kernel.name: 3}
    fill(engine, header(ConvolutionKernel="late"))  # is listed as it comes
    assert "late" in values_in(engine, t.instance_value, kernel.name)
    while list_stored(engine, at_once=2):
        pass
    assert values_in(engine, t.instance_value, kernel.name) == ["K0", "K1", "K2", "K3", "K4", "late"]
    assert waiting(engine, kernel) == set()
    with engine.connect() as connection:
        assert [one.remaining for one in progress(connection)] == [0]
    sync_keys(engine, [kernel])
    assert not list_stored(engine)


def test_a_study_and_a_series_are_listed_by_their_first_header(engine: sa.Engine) -> None:
    study, series = new_uid(), new_uid()
    uids = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    fill(engine, *(header(**uids, PatientAge=f"04{n}Y", Manufacturer=f"M{n}") for n in range(3)))
    keys = [configured_key("PatientAge"), configured_key("Manufacturer")]
    sync_keys(engine, keys)
    while list_stored(engine, at_once=1):
        pass
    assert values_in(engine, t.study_value, keys[0].name) == ["040Y"]
    assert values_in(engine, t.series_value, keys[1].name) == ["M0"]
    fill(engine, header(PatientAge="050Y"))
    assert values_in(engine, t.study_value, keys[0].name) == ["040Y", "050Y"]


def test_a_key_that_left_the_configuration_is_dropped_with_its_values(engine: sa.Engine) -> None:
    operators = configured_key("ResponsiblePerson", level="series")
    fill(engine, *(header(ResponsiblePerson="Müller^Anna") for _ in range(3)))
    sync_keys(engine, [operators])
    while list_stored(engine):
        pass
    assert len(values_in(engine, t.series_value, operators.name)) == 3
    assert values_in(engine, t.series_value, "~" + operators.name)
    sync_keys(engine, [])
    fill(engine, header(ResponsiblePerson="late"))
    assert waiting(engine, operators) == {operators.name}
    while list_stored(engine):
        pass
    assert (
        values_in(engine, t.series_value, operators.name)
        == values_in(engine, t.series_value, "~" + operators.name)
        == []
    )
    with engine.connect() as connection:
        assert connection.execute(sa.select(t.search_key)).all() == []
    assert len(values_in(engine, t.study_value, "00080090")) == 0


def test_a_key_that_is_configured_otherwise_is_listed_anew(engine: sa.Engine) -> None:
    fill(engine, header(AcquisitionNumber="007"))
    for level, vr, table, value in (("instance", "IS", t.instance_value, "7"), ("series", "SH", t.series_value, "7")):
        made = listed_key("00200012", vr, level)
        for _ in range(3):
            sync_keys(engine, [made])
            while list_stored(engine):
                pass
        assert values_in(engine, table, made.name) == [value]
    assert values_in(engine, t.instance_value, "00200012") == []


def test_values_are_listed_anew_from_the_header_as_it_is_shown_now(engine: sa.Engine) -> None:
    fill(engine, header(PatientName="Wrong^Name", OperatorsName="Same^One"))
    with begin_write(engine) as connection:
        (study,) = connection.execute(sa.select(t.study.c.id)).scalars()
        relist_values(connection, "study", {study: header(PatientName="Other^Name")})
    assert values_in(engine, t.study_value, "00100010") == ["other^name"]
    assert values_in(engine, t.study_value, "~00100010") == ["NM", "O0R", "name", "other"]
    with begin_write(engine) as connection:
        row, _ = study_row(
            header(PatientName="Right^Name"),
            study_uid="1.2",
            modalities=[],
            sop_classes=[],
            series_count=1,
            instance_count=1,
        )
        connection.execute(t.study.update().values(row=row))
        relist_entities(connection, "study", [study])
    assert values_in(engine, t.study_value, "00100010") == ["right^name"]
    assert values_in(engine, t.series_value, "00081070") == ["same^one"]


def test_only_what_is_configured_is_listed_at_ingest(engine: sa.Engine) -> None:
    kernel = configured_key("ConvolutionKernel")
    with engine.connect() as connection:
        assert kernel not in keys_at_ingest(connection)["instance"]
    sync_keys(engine, [kernel])
    with engine.connect() as connection:
        assert kernel in keys_at_ingest(connection)["instance"]


def test_what_is_deleted_takes_its_values_along(engine: sa.Engine) -> None:
    fill(engine, header(PatientName="Doe", OperatorsName="Roe", ContentLabel="X"))
    with begin_write(engine) as connection:
        connection.execute(t.study.delete())
        for table in (t.study_value, t.series_value, t.instance_value):
            assert connection.execute(sa.select(table)).all() == []
