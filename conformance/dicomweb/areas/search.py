"""The Search transaction: its resources, what a result holds, paging and errors (PS3.18 10.6, 8.3.4)."""

from __future__ import annotations

from typing import Any

from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import MAY, SHOULD, Fault, check, ensure
from conformance.dicomweb.jsonmodel import blemishes, first, said, values
from conformance.dicomweb.peer import JSON, Peer
from conformance.dicomweb.samples import JAPANESE, PAGES

STUDY_ROW = (
    "00080020 00080030 00080050 00080061 00080090 00100010 00100020 00100030 00100040"
    " 0020000D 00200010 00201206 00201208"
).split()
SERIES_ROW = "00080060 0008103E 0020000E 00200011 00201209".split()
INSTANCE_ROW = "00080016 00080018 00200013 00280010 00280011 00280100".split()


def studies(peer: Peer, cast: Cast, letter: str, query: str = "", **keys: str) -> list[dict[str, Any]]:
    """Search for the studies of one patient."""
    text = "&".join(filter(None, [f"PatientID={cast.samples.patient_id(letter)}", query]))
    text += "".join(f"&{name}={value}" for name, value in keys.items())
    return peer.get("/studies", text, accept=JSON).rows()


def ensure_has(rows: list[dict[str, Any]], tags: list[str]) -> None:
    """Every row has every one of these attributes."""
    ensure(rows, "there is no result")
    found = [f"a result lacks {tag}" for tag in tags if any(tag not in row for row in rows)]
    ensure(not found, said(found, most=20))


def uids(rows: list[dict[str, Any]], tag: str) -> list[str]:
    """One UID of each row, sorted."""
    return sorted(str(first(row, tag)) for row in rows)


@check("QIDO-001", "10.6.1.1")
def all_studies(peer: Peer, cast: Cast) -> None:
    """/studies finds a study by a key, and only that."""
    rows = studies(peer, cast, "A")
    ensure(uids(rows, "0020000D") == [cast["ct1"].study_uid], f"{len(rows)} studies are found, or another")


@check("QIDO-002", "10.6.1.1")
def series_of_a_study(peer: Peer, cast: Cast) -> None:
    """/studies/{study}/series finds the series of a study."""
    rows = peer.search(f"{cast['ct1'].study}/series").rows()
    wanted = sorted({cast[name].series_uid for name in ("ct1", "sr", "gsps", "pdf")})
    ensure(uids(rows, "0020000E") == wanted, f"{len(rows)} series are found, not {len(wanted)}")


@check("QIDO-003", "10.6.1.1")
def instances_of_a_series(peer: Peer, cast: Cast) -> None:
    """/studies/{study}/series/{series}/instances finds the instances of a series."""
    rows = peer.search(f"{cast['ct1'].series}/instances").rows()
    wanted = sorted(cast[f"ct{number}"].uid for number in range(1, 6))
    ensure(uids(rows, "00080018") == wanted, f"{len(rows)} instances are found, not {len(wanted)}")


@check("QIDO-004", "10.6.1.1")
def instances_of_a_study(peer: Peer, cast: Cast) -> None:
    """/studies/{study}/instances finds the instances of all series of a study."""
    rows = peer.search(f"{cast['ct1'].study}/instances").rows()
    ensure(len(rows) == len(set(uids(rows, "00080018"))) == 8, f"{len(rows)} instances are found, not 8")


@check("QIDO-005", "10.6.1.1")
def all_series(peer: Peer, cast: Cast) -> None:
    """/series finds series across all studies."""
    rows = peer.search("/series", SeriesInstanceUID=cast["sr"].series_uid).rows()
    ensure(uids(rows, "0020000E") == [cast["sr"].series_uid], f"{len(rows)} series are found, or another")


@check("QIDO-006", "10.6.1.1")
def all_instances(peer: Peer, cast: Cast) -> None:
    """/instances finds instances across all studies."""
    rows = peer.search("/instances", SOPInstanceUID=cast["pdf"].uid).rows()
    ensure(uids(rows, "00080018") == [cast["pdf"].uid], f"{len(rows)} instances are found, or another")


@check("QIDO-007", "8.7.3.2")
def content_type(peer: Peer, cast: Cast) -> None:
    """Search results have the Content-Type application/dicom+json."""
    peer.search("/studies", StudyInstanceUID=cast["ct1"].study_uid).expect(200).expect_type(JSON)


@check("QIDO-008", "F.2.2")
def annex_f(peer: Peer, cast: Cast) -> None:
    """Search results at every level keep all rules of the DICOM JSON Model."""
    study = cast["ct1"].study
    found = []
    for path in ("/studies", f"{study}/series", f"{study}/instances"):
        for row in peer.search(path, StudyInstanceUID=cast["ct1"].study_uid, includefield="all").rows():
            found += [f"{path} {blemish}" for blemish in blemishes(row)]
    ensure(not found, said(found))


@check("QIDO-009", "10.6.3.3.1")
def study_attributes(peer: Peer, cast: Cast) -> None:
    """A study has all attributes of Table 10.6.3-3, those that are empty as well."""
    ensure_has(studies(peer, cast, "A"), STUDY_ROW)


@check("QIDO-010", "10.6.3.3.1")
def retrieve_url_of_a_study(peer: Peer, cast: Cast) -> None:
    """A study has a Retrieve URL, and the study can be retrieved there."""
    _follow(peer, studies(peer, cast, "A"))


@check("QIDO-011", "10.6.3.3.2")
def retrieve_url_of_a_series(peer: Peer, cast: Cast) -> None:
    """A series has a Retrieve URL, and the series can be retrieved there."""
    _follow(peer, peer.search(f"{cast['cine'].study}/series").rows())


@check("QIDO-012", "10.6.3.3.3")
def retrieve_url_of_an_instance(peer: Peer, cast: Cast) -> None:
    """An instance has a Retrieve URL, and the instance can be retrieved there."""
    _follow(peer, peer.search(f"{cast['cine'].study}/instances").rows())


def _follow(peer: Peer, rows: list[dict[str, Any]]) -> None:
    ensure(rows, "there is no result")
    url = first(rows[0], "00081190")
    ensure(isinstance(url, str) and url.startswith(("http://", "https://")), f"the Retrieve URL is {url!r}")
    peer.get(f"{url}/metadata", accept=JSON).expect(200)


@check("QIDO-013", "10.6.3.3.1")
def modalities_in_study(peer: Peer, cast: Cast) -> None:
    """Modalities in Study names every modality of the study once."""
    (row,) = studies(peer, cast, "A") or [{}]
    found = values(row, "00080061")
    ensure(sorted(found) == ["CT", "DOC", "PR", "SR"], f"Modalities in Study is {found}")


@check("QIDO-014", "10.6.3.3.1")
def counts_of_a_study(peer: Peer, cast: Cast) -> None:
    """The numbers of series and instances of a study are right."""
    (row,) = studies(peer, cast, "A") or [{}]
    found = [int(first(row, tag) or 0) for tag in ("00201206", "00201208")]
    ensure(found == [4, 8], f"4 series of 8 instances are counted as {found[0]} of {found[1]}")


@check("QIDO-015", "10.6.3.3.2")
def series_attributes(peer: Peer, cast: Cast) -> None:
    """A series has all attributes of Table 10.6.3-4."""
    ensure_has(peer.search(f"{cast['ct1'].study}/series", Modality="CT").rows(), SERIES_ROW)


@check("QIDO-016", "10.6.3.3.2")
def count_of_a_series(peer: Peer, cast: Cast) -> None:
    """The number of instances of a series is right."""
    (row,) = peer.search(f"{cast['ct1'].study}/series", Modality="CT").rows() or [{}]
    found = first(row, "00201209")
    ensure(found in (5, "5"), f"5 instances are counted as {found!r}")


@check("QIDO-017", "10.6.3.3.3")
def instance_attributes(peer: Peer, cast: Cast) -> None:
    """An instance has all attributes of Table 10.6.3-5; of an image, its size and depth."""
    ensure_has(peer.search(f"{cast['ct1'].series}/instances").rows(), INSTANCE_ROW)


@check("QIDO-018", "10.6.3.3.3")
def number_of_frames(peer: Peer, cast: Cast) -> None:
    """A multi-frame instance has its Number of Frames."""
    (row,) = peer.search(f"{cast['cine'].series}/instances").rows() or [{}]
    found = first(row, "00280008")
    ensure(found in (3, "3"), f"Number of Frames is {found!r}, not 3")


@check("QIDO-019", "10.6.3.3.2")
def series_across_studies_have_their_study(peer: Peer, cast: Cast) -> None:
    """/series adds the attributes of the study to each series."""
    ensure_has(peer.search("/series", SeriesInstanceUID=cast["ct1"].series_uid).rows(), SERIES_ROW + STUDY_ROW)


@check("QIDO-020", "10.6.3.3.3")
def instances_across_studies_have_their_study(peer: Peer, cast: Cast) -> None:
    """/instances adds the attributes of study and series to each instance."""
    rows = peer.search("/instances", SOPInstanceUID=cast["ct1"].uid).rows()
    ensure_has(rows, INSTANCE_ROW + SERIES_ROW + STUDY_ROW)


@check("QIDO-021", "10.6.3.3.3")
def instances_of_a_study_have_their_series(peer: Peer, cast: Cast) -> None:
    """/studies/{study}/instances says of each instance which series it is of."""
    rows = peer.search(f"{cast['ct1'].study}/instances").rows()
    ensure_has(rows, ["0020000E"])


@check("QIDO-022", "8.3.4.3", SHOULD)
def include_by_keyword(peer: Peer, cast: Cast) -> None:
    """includefield with a keyword adds that attribute: Study Description, Body Part Examined."""
    ensure_has(studies(peer, cast, "A", "includefield=StudyDescription"), ["00081030"])
    rows = peer.search(f"{cast['ct1'].study}/series", Modality="CT", includefield="BodyPartExamined").rows()
    ensure_has(rows, ["00180015"])


@check("QIDO-023", "8.3.4.3", SHOULD)
def include_by_tag(peer: Peer, cast: Cast) -> None:
    """includefield with a tag adds that attribute."""
    ensure_has(studies(peer, cast, "A", "includefield=00081030"), ["00081030"])


@check("QIDO-024", "8.3.4.3", SHOULD)
def include_a_list(peer: Peer, cast: Cast) -> None:
    """includefield takes a comma-separated list."""
    rows = peer.search(f"{cast['ct1'].series}/instances", includefield="ImagePositionPatient,00180050").rows()
    ensure_has(rows, ["00200032", "00180050"])


@check("QIDO-025", "8.3.4.3", SHOULD)
def include_several_times(peer: Peer, cast: Cast) -> None:
    """includefield may be there several times, and all of them count."""
    query = "includefield=ImagePositionPatient&includefield=SliceThickness"
    rows = peer.get(f"{cast['ct1'].series}/instances", query, accept=JSON).rows()
    ensure_has(rows, ["00200032", "00180050"])


@check("QIDO-026", "8.3.4.3")
def include_all(peer: Peer, cast: Cast) -> None:
    """includefield=all takes nothing away: what a result has without it, it has with it."""
    plain, whole = studies(peer, cast, "A"), studies(peer, cast, "A", "includefield=all")
    ensure_has(whole, list(plain[0]) if plain else ["0020000D"])
    rows = peer.search(f"{cast['ct1'].series}/instances", includefield="all").rows()
    ensure_has(rows, INSTANCE_ROW)


@check("QIDO-027", "10.6.3.3.1", SHOULD)
def matched_attributes_are_returned(peer: Peer, cast: Cast) -> None:
    """An attribute that was matched is in the results."""
    ensure_has(studies(peer, cast, "A", StudyDescription="Conformance%20A"), ["00081030"])


@check("QIDO-028", "10.6.3.3.1")
def no_attributes_of_lower_levels(peer: Peer, cast: Cast) -> None:
    """Attributes of instances that are asked for of a study or series are not returned."""
    rows = studies(peer, cast, "A", "includefield=InstanceNumber,SOPInstanceUID")
    rows += peer.search(f"{cast['ct1'].study}/series", includefield="SOPInstanceUID").rows()
    found = [tag for row in rows for tag in ("00200013", "00080018") if tag in row]
    ensure(rows and not found, f"the results have {sorted(set(found))}")


@check("QIDO-029", "10.6.3.3.1", SHOULD)
def names_in_results(peer: Peer, cast: Cast) -> None:
    """A name in a result has all its component groups."""
    (row,) = studies(peer, cast, "J") or [{}]
    groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), JAPANESE.split("="), strict=False))
    ensure(values(row, "00100010") == [groups], f"Patient's Name is {values(row, '00100010')!r}")


@check("QIDO-030", "10.6.3.3.1", SHOULD)
def availability(peer: Peer, cast: Cast) -> None:
    """What was stored a moment ago is ONLINE."""
    (row,) = studies(peer, cast, "A") or [{}]
    ensure(first(row, "00080056") == "ONLINE", f"Instance Availability is {row.get('00080056')!r}")


@check("QIDO-031", "10.6.3.1")
def nothing_found(peer: Peer, cast: Cast) -> None:
    """A search that finds nothing is a success: 204, or 200 with an empty array."""
    answer = peer.search("/studies", PatientID=cast.samples.patient_id("NOBODY")).expect(200, 204)
    ensure(not answer.rows(), f"{len(answer.rows())} studies are found")


@check("QIDO-032", "10.6.3.1", SHOULD)
def nothing_found_has_no_body(peer: Peer, cast: Cast) -> None:
    """A search that finds nothing is answered by 204 without a body.

    For the Worklist Service (11.9.3) 2026a has 200 with an empty list instead; readers take both.
    """
    answer = peer.search("/studies", PatientID=cast.samples.patient_id("NOBODY")).expect(204)
    ensure(not answer.body, f"the answer has a body of {len(answer.body)} bytes")


@check("QIDO-033", "10.6.1.1")
def below_an_unknown_study(peer: Peer, cast: Cast) -> None:
    """A search below a study that is not there finds nothing, or is answered by 404."""
    cast.held()
    answer = peer.search(f"/studies/{cast.samples.uid('nowhere')}/series").expect(200, 204, 404)
    ensure(answer.status == 404 or not answer.rows(), "series of a study that is not there are found")


@check("QIDO-034", "10.6.1.1")
def below_a_series_of_another_study(peer: Peer, cast: Cast) -> None:
    """A search below a series of another study finds nothing, or is answered by 404."""
    answer = peer.search(f"{cast['cine'].study}/series/{cast['ct1'].series_uid}/instances").expect(200, 204, 404)
    ensure(answer.status == 404 or not answer.rows(), "instances of a series of another study are found")


@check("QIDO-035", "8.3.4.4")
def limit(peer: Peer, cast: Cast) -> None:
    """limit gives no more results than that."""
    rows = studies(peer, cast, "P", "limit=3")
    ensure(len(rows) == 3, f"limit=3 gives {len(rows)} of {PAGES} results")


@check("QIDO-036", "8.3.4.4")
def pages(peer: Peer, cast: Cast) -> None:
    """limit and offset turn the pages: every result comes once."""
    found: list[str] = []
    for offset in range(0, PAGES, 3):
        found += uids(studies(peer, cast, "P", f"limit=3&offset={offset}"), "0020000D")
    wanted = sorted(cast[f"page{number}"].study_uid for number in range(1, PAGES + 1))
    ensure(sorted(found) == wanted, f"{len(found)} results in three pages, {len(set(found))} of them different")


@check("QIDO-037", "8.3.4.4")
def offset_past_the_end(peer: Peer, cast: Cast) -> None:
    """An offset past the last result gives none."""
    rows = studies(peer, cast, "P", f"offset={PAGES}")
    ensure(not rows, f"{len(rows)} results come after the last")


@check("QIDO-038", "8.3.4.4", SHOULD)
def warning_of_further_results(peer: Peer, cast: Cast) -> None:
    """Where results are left over, a Warning 299 says so."""
    cast["page1"]
    answer = peer.search("/studies", PatientID=cast.samples.patient_id("P"), limit="2").expect(200)
    ensure(
        any(text.startswith("299 ") for text in answer.headers.get_list("warning")),
        f"2 of {PAGES} results come with the Warning {answer.headers.get('warning')!r}",
    )


@check("QIDO-039", "8.3.4.4", SHOULD)
def order_is_repeatable(peer: Peer, cast: Cast) -> None:
    """The same search gives the same order, as turning pages needs."""
    first_time, again = studies(peer, cast, "P"), studies(peer, cast, "P")
    ensure(
        len(first_time) == PAGES
        and [first(row, "0020000D") for row in first_time] == [first(row, "0020000D") for row in again],
        "the order changed, or results are missing",
    )


def _refused(peer: Peer, cast: Cast, query: str) -> None:
    peer.get("/studies", f"PatientID={cast.samples.patient_id('P')}&{query}", accept=JSON).expect(400)


@check("QIDO-040", "8.3")
def negative_limit(peer: Peer, cast: Cast) -> None:
    """limit=-1 is no unsigned integer: 400."""
    _refused(peer, cast, "limit=-1")


@check("QIDO-041", "8.3")
def limit_in_words(peer: Peer, cast: Cast) -> None:
    """limit=ten is no unsigned integer: 400."""
    _refused(peer, cast, "limit=ten")


@check("QIDO-042", "8.3")
def negative_offset(peer: Peer, cast: Cast) -> None:
    """offset=-1 is no unsigned integer: 400."""
    _refused(peer, cast, "offset=-1")


@check("QIDO-043", "8.3")
def offset_in_words(peer: Peer, cast: Cast) -> None:
    """offset=one is no unsigned integer: 400."""
    _refused(peer, cast, "offset=one")


@check("QIDO-044", "8.3")
def fuzzymatching_in_doubt(peer: Peer, cast: Cast) -> None:
    """fuzzymatching=perhaps is neither true nor false: 400."""
    _refused(peer, cast, "fuzzymatching=perhaps")


@check("QIDO-045", "8.3")
def date_that_is_none(peer: Peer, cast: Cast) -> None:
    """StudyDate=yesterday is no date: 400."""
    _refused(peer, cast, "StudyDate=yesterday")


@check("QIDO-046", "8.3")
def range_that_is_none(peer: Peer, cast: Cast) -> None:
    """A range with three ends is no range of dates: 400."""
    _refused(peer, cast, "StudyDate=20260101-20260102-20260103")


@check("QIDO-047", "8.3")
def time_that_is_none(peer: Peer, cast: Cast) -> None:
    """StudyTime=noon is no time: 400."""
    _refused(peer, cast, "StudyTime=noon")


@check("QIDO-048", "8.3")
def unknown_parameters(peer: Peer, cast: Cast) -> None:
    """A parameter that nobody knows is ignored: the search is made as if it were not there."""
    rows = studies(peer, cast, "A", "nosuchparameter=1")
    ensure(len(rows) == 1, f"{len(rows)} studies are found, not 1")


@check("QIDO-049", "8.3", SHOULD)
def warning_of_unknown_parameters(peer: Peer, cast: Cast) -> None:
    """A parameter that was ignored is named in a Warning."""
    cast["ct1"]
    answer = peer.search("/studies", PatientID=cast.samples.patient_id("A"), NoSuchAttribute="1").expect(200)
    ensure("warning" in answer.headers, "there is no Warning")


@check("QIDO-050", "10.6.3.3.1", MAY)
def record_keys(peer: Peer, cast: Cast) -> None:
    """A record key comes where it is included, for paging that inserts do not disturb."""
    cast["page1"]
    answer = peer.search("/studies", PatientID=cast.samples.patient_id("P"), includefield="RecordKey", limit="2")
    rows = answer.rows()
    if not all("0008041B" in row for row in rows) or not rows:
        raise Fault("the results have no Record Key (0008,041B)")
