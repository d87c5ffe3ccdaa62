"""How keys are matched (PS3.18 8.3.4.1, PS3.4 C.2.2.2)."""

from __future__ import annotations

from collections.abc import Iterable

from conformance.dicomweb.areas.search import studies, uids
from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import MAY, SHOULD, check, ensure
from conformance.dicomweb.peer import JSON, Answer, Peer, Query
from conformance.dicomweb.samples import PAGES, PRIVATE_CREATOR


def ensure_pages(peer: Peer, cast: Cast, query: str, numbers: Iterable[int]) -> None:
    """A search of the patient with many studies finds exactly these."""
    found = uids(studies(peer, cast, "P", query), "0020000D")
    wanted = sorted(cast[f"page{number}"].study_uid for number in numbers)
    names = [sample.name for sample in cast.held() if sample.study_uid in found]
    ensure(found == wanted, f"{query} finds {names or 'nothing'}")


def ensure_found(peer: Peer, cast: Cast, name: str, query: Query) -> None:
    """A search for studies finds the one of this sample, and no other of this run."""
    ensure_only(cast, peer.get("/studies", query, accept=JSON), name)


def ensure_only(cast: Cast, answer: Answer, name: str) -> None:
    """An answer holds the study of this sample (of none where it is empty), and no other study of this run."""
    ours = {sample.study_uid: sample.name for sample in cast.held()}
    found = [ours[uid] for uid in uids(answer.rows(), "0020000D") if uid in ours]
    wanted = [ours[cast[name].study_uid]] if name else []
    ensure(found == wanted, f"{answer.named} finds {found or 'nothing'}, not {wanted or 'nothing'}")


@check("QIDO-101", "PS3.4 C.2.2.2.1")
def single_value(peer: Peer, cast: Cast) -> None:
    """A value without wildcards matches that value alone."""
    ensure_found(peer, cast, "page1", {"AccessionNumber": cast["page1"].dataset.AccessionNumber})
    ensure_found(peer, cast, "", {"AccessionNumber": cast["page1"].dataset.AccessionNumber[:-1] + "X"})


@check("QIDO-102", "8.3.4.1")
def key_by_tag(peer: Peer, cast: Cast) -> None:
    """A key may be named by its tag: 00100020 is PatientID."""
    ensure_found(peer, cast, "ct1", {"00100020": cast.samples.patient_id("A")})


@check("QIDO-103", "8.3.4.1", SHOULD)
def key_by_tag_in_lower_case(peer: Peer, cast: Cast) -> None:
    """The digits of a tag may be in lower case, as ABNF's HEXDIG are."""
    ensure_found(peer, cast, "ct1", {"0020000d": cast["ct1"].study_uid})


@check("QIDO-104", "PS3.4 C.2.2.2.1")
def several_keys(peer: Peer, cast: Cast) -> None:
    """Several keys have to match all together."""
    patient = cast.samples.patient_id("A")
    ensure_found(peer, cast, "ct1", {"PatientID": patient, "StudyDate": "20260102"})
    ensure_found(peer, cast, "", {"PatientID": patient, "StudyDate": "20260103"})


@check("QIDO-105", "PS3.4 C.2.2.2.1")
def date(peer: Peer, cast: Cast) -> None:
    """A date matches that day."""
    ensure_pages(peer, cast, "StudyDate=20260203", [3])


@check("QIDO-106", "PS3.4 C.2.2.2.5")
def date_range(peer: Peer, cast: Cast) -> None:
    """A range of dates matches both its ends and what lies between."""
    ensure_pages(peer, cast, "StudyDate=20260202-20260204", [2, 3, 4])


@check("QIDO-107", "PS3.4 C.2.2.2.5")
def range_without_an_end(peer: Peer, cast: Cast) -> None:
    """A range that is open at its end matches that day and all later ones."""
    ensure_pages(peer, cast, "StudyDate=20260205-", [5, 6, 7])


@check("QIDO-108", "PS3.4 C.2.2.2.5")
def range_without_a_beginning(peer: Peer, cast: Cast) -> None:
    """A range that is open at its beginning matches that day and all earlier ones."""
    ensure_pages(peer, cast, "StudyDate=-20260202", [1, 2])


@check("QIDO-109", "PS3.4 C.2.2.2.5")
def time_range(peer: Peer, cast: Cast) -> None:
    """A range of times matches both its ends and what lies between."""
    ensure_pages(peer, cast, "StudyTime=030000-050000", [3, 4, 5])


@check("QIDO-110", "PS3.4 C.2.2.2.1")
def time(peer: Peer, cast: Cast) -> None:
    """A time matches that time."""
    ensure_pages(peer, cast, "StudyTime=040000", [4])


@check("QIDO-111", "PS3.4 C.2.2.2.4")
def asterisk(peer: Peer, cast: Cast) -> None:
    """``*`` matches any sequence of characters, at the end and within."""
    prefix = cast.samples.prefix
    ensure_pages(peer, cast, f"AccessionNumber={prefix}P*", [1, 2, 3, 4, 5])
    ensure_pages(peer, cast, f"AccessionNumber={prefix[:3]}*P2", [2])


@check("QIDO-112", "PS3.4 C.2.2.2.4")
def question_mark(peer: Peer, cast: Cast) -> None:
    """``?`` matches exactly one character."""
    prefix = cast.samples.prefix
    ensure_pages(peer, cast, f"AccessionNumber={prefix}P?", [1, 2, 3, 4, 5])
    ensure_pages(peer, cast, f"AccessionNumber={prefix}?", [])


@check("QIDO-113", "PS3.4 C.2.2.2.4")
def wildcards_are_case_sensitive(peer: Peer, cast: Cast) -> None:
    """Wildcard matching is case-sensitive, except in names."""
    ensure_pages(peer, cast, f"AccessionNumber={cast.samples.prefix.lower()}P*", [])


@check("QIDO-114", "PS3.4 C.2.2.2.1")
def values_are_case_sensitive(peer: Peer, cast: Cast) -> None:
    """Single value matching is case-sensitive, except in names."""
    ensure_pages(peer, cast, f"AccessionNumber={cast.samples.prefix}p1", [])


@check("QIDO-115", "PS3.4 C.2.2.2.3")
def universal(peer: Peer, cast: Cast) -> None:
    """``*`` alone matches everything, an empty value too."""
    ensure_pages(peer, cast, "AccessionNumber=*", range(1, PAGES + 1))


@check("QIDO-116", "PS3.4 C.2.2.2.3", SHOULD)
def empty_key(peer: Peer, cast: Cast) -> None:
    """A key without a value matches everything."""
    ensure_pages(peer, cast, "AccessionNumber=", range(1, PAGES + 1))


@check("QIDO-117", "PS3.4 C.2.2.2.4")
def name_with_wildcard(peer: Peer, cast: Cast) -> None:
    """A name matches by wildcard."""
    ensure_found(peer, cast, "ct1", {"PatientID": cast.samples.patient_id("A"), "PatientName": "Ångström*"})


@check("QIDO-118", "PS3.4 C.2.2.2.4", SHOULD)
def name_in_other_case(peer: Peer, cast: Cast) -> None:
    """A name matches in upper and lower case alike."""
    ensure_pages(peer, cast, "PatientName=SAMPLE*", range(1, PAGES + 1))
    ensure_pages(peer, cast, "PatientName=sample*", range(1, PAGES + 1))


@check("QIDO-119", "PS3.4 C.2.2.2.1.1", MAY)
def name_without_accents(peer: Peer, cast: Cast) -> None:
    """A name matches without its accents as well."""
    ensure_found(peer, cast, "ct1", {"PatientID": cast.samples.patient_id("A"), "PatientName": "angstrom*"})


@check("QIDO-120", "PS3.4 C.2.2.2.4")
def name_of_another(peer: Peer, cast: Cast) -> None:
    """A name that the patient does not have matches nothing."""
    ensure_found(peer, cast, "", {"PatientID": cast.samples.patient_id("A"), "PatientName": "Nobody*"})


@check("QIDO-121", "RFC 3986 2.1")
def name_in_utf_8(peer: Peer, cast: Cast) -> None:
    """A value is percent-encoded UTF-8: Greek and Cyrillic names are found."""
    ensure_found(peer, cast, "greek", {"PatientID": cast.samples.patient_id("G"), "PatientName": "Διον*"})
    ensure_found(peer, cast, "cyrillic", {"PatientID": cast.samples.patient_id("K"), "PatientName": "Люкс*"})


@check("QIDO-122", "PS3.4 C.2.2.2.4", SHOULD)
def ideographic_name(peer: Peer, cast: Cast) -> None:
    """A name is found by its ideographic group."""
    ensure_found(peer, cast, "japanese", {"PatientID": cast.samples.patient_id("J"), "PatientName": "*山田*"})


@check("QIDO-123", "RFC 3986 2.1")
def values_are_decoded_once(peer: Peer, cast: Cast) -> None:
    """A plus sign that is percent-encoded is a plus sign, and nothing is decoded twice."""
    prefix = cast.samples.prefix
    ensure_pages(peer, cast, f"AccessionNumber={prefix}%2B7", [7])
    ensure_pages(peer, cast, f"AccessionNumber={prefix}%252B7", [])


@check("QIDO-124", "8.3.4.1")
def list_of_uids(peer: Peer, cast: Cast) -> None:
    """A list of UIDs, separated by commas, matches each of them."""
    wanted = [cast[name].study_uid for name in ("page1", "page4")]
    ensure_pages(peer, cast, f"StudyInstanceUID={','.join(wanted)}", [1, 4])


@check("QIDO-125", "PS3.4 C.2.2.2.2", SHOULD)
def list_of_uids_with_backslashes(peer: Peer, cast: Cast) -> None:
    """A list of UIDs, separated by backslashes as in DICOM, matches each of them."""
    wanted = [cast[name].study_uid for name in ("page1", "page4")]
    ensure_pages(peer, cast, f"StudyInstanceUID={'%5C'.join(wanted)}", [1, 4])


@check("QIDO-126", "PS3.4 C.2.2.2.2")
def list_with_an_unknown_uid(peer: Peer, cast: Cast) -> None:
    """A UID in a list that nobody has does no harm."""
    wanted = [cast["page2"].study_uid, cast.samples.uid("nowhere")]
    ensure_pages(peer, cast, f"StudyInstanceUID={','.join(wanted)}", [2])


@check("QIDO-127", "10.6.1.2.3")
def modalities_in_study(peer: Peer, cast: Cast) -> None:
    """ModalitiesInStudy matches a study that has a series of that modality, and no other."""
    patient = cast.samples.patient_id("A")
    ensure_found(peer, cast, "ct1", {"PatientID": patient, "ModalitiesInStudy": "SR"})
    ensure_found(peer, cast, "", {"PatientID": patient, "ModalitiesInStudy": "MR"})


@check("QIDO-128", "10.6.1.2.3")
def study_id(peer: Peer, cast: Cast) -> None:
    """StudyID is matched."""
    ensure_pages(peer, cast, "StudyID=page5", [5])


@check("QIDO-129", "10.6.1.2.3")
def referring_physician(peer: Peer, cast: Cast) -> None:
    """ReferringPhysicianName is matched."""
    ensure_pages(peer, cast, "ReferringPhysicianName=Referrer*", range(1, PAGES + 1))
    ensure_pages(peer, cast, "ReferringPhysicianName=Nobody*", [])


@check("QIDO-130", "10.6.1.2.3")
def series_keys(peer: Peer, cast: Cast) -> None:
    """Series match by Modality, SeriesNumber and SeriesInstanceUID."""
    path = f"{cast['ct1'].study}/series"
    wanted = [cast["sr"].series_uid]
    for keys in ({"Modality": "SR"}, {"SeriesNumber": "2"}, {"SeriesInstanceUID": cast["sr"].series_uid}):
        found = uids(peer.search(path, **keys).rows(), "0020000E")
        ensure(found == wanted, f"{keys} finds {len(found)} series, or another")


@check("QIDO-131", "10.6.1.2.3")
def instance_keys(peer: Peer, cast: Cast) -> None:
    """Instances match by SOPClassUID, InstanceNumber and SOPInstanceUID."""
    path = f"{cast['ct1'].study}/instances"
    for keys, name in (
        ({"SOPClassUID": cast["sr"].sop_class}, "sr"),
        ({"InstanceNumber": "4"}, "ct4"),
        ({"SOPInstanceUID": cast["ct2"].uid}, "ct2"),
    ):
        found = uids(peer.search(path, **keys).rows(), "00080018")
        ensure(found == [cast[name].uid], f"{keys} finds {len(found)} instances, or another")


@check("QIDO-132", "10.6.1.2.3")
def keys_of_the_study_at_the_series(peer: Peer, cast: Cast) -> None:
    """/series matches keys of the study as well."""
    rows = peer.search("/series", PatientID=cast.samples.patient_id("B")).rows()
    wanted = sorted((cast["cine"].series_uid, cast["colour"].series_uid))
    ensure(uids(rows, "0020000E") == wanted, f"{len(rows)} series are found, not 2")


@check("QIDO-133", "10.6.1.2.3")
def keys_of_the_study_at_the_instance(peer: Peer, cast: Cast) -> None:
    """/instances matches keys of study and series as well."""
    rows = peer.search("/instances", PatientID=cast.samples.patient_id("A"), Modality="CT").rows()
    ensure(len(rows) == 5, f"{len(rows)} instances are found, not 5")


@check("QIDO-134", "PS3.4 C.2.2.2.6")
def sequence_key(peer: Peer, cast: Cast) -> None:
    """A key in a sequence matches: RequestAttributesSequence.ScheduledProcedureStepID, of the series."""
    step = f"{cast.samples.prefix}-SPS"
    for name in ("RequestAttributesSequence.ScheduledProcedureStepID", "00400275.00400009"):
        rows = peer.get(f"{cast['ct1'].study}/series", {name: step}, accept=JSON).rows()
        ensure(uids(rows, "0020000E") == [cast["ct1"].series_uid], f"{name}={step} finds {len(rows)} series, not 1")


@check("QIDO-135", "PS3.4 C.2.2.2.6")
def sequence_key_that_matches_nothing(peer: Peer, cast: Cast) -> None:
    """A key in a sequence that nothing has matches nothing: it is never the same as no key."""
    name = "RequestAttributesSequence.ScheduledProcedureStepID"
    rows = peer.get(f"{cast['ct1'].study}/series", {name: "NOBODY"}, accept=JSON).rows()
    ensure(not rows, f"{name}=NOBODY finds {len(rows)} series")


@check("QIDO-136", "8.3", SHOULD)
def ignored_keys_are_named(peer: Peer, cast: Cast) -> None:
    """A standard attribute that is no key here either matches, or is ignored with a Warning.

    The text says "may return a warning"; without one the answer cannot be told from a wrong one.
    """
    cast["ct1"]
    keys = {"PatientID": cast.samples.patient_id("A"), "ImageComments": "nobody wrote this"}
    answer = peer.search("/studies", **keys)
    ensure(
        not answer.rows() or "warning" in answer.headers,
        "the study is returned as if it matched, and no Warning says that the key was ignored",
    )


@check("QIDO-137", "8.3.4.5")
def empty_value_matching(peer: Peer, cast: Cast) -> None:
    """emptyvaluematching=true finds what is empty, or a Warning says that it is not supported."""
    _matched_or_warned(peer, cast, "AccessionNumber=%22%22&emptyvaluematching=true", [6])


@check("QIDO-138", "8.3.4.6")
def multiple_value_matching(peer: Peer, cast: Cast) -> None:
    """multiplevaluematching=true takes a list of values, or a Warning says that it is not supported."""
    prefix = cast.samples.prefix
    _matched_or_warned(peer, cast, f"AccessionNumber={prefix}P1%5C{prefix}P3&multiplevaluematching=true", [1, 3])


def _matched_or_warned(peer: Peer, cast: Cast, query: str, numbers: Iterable[int]) -> None:
    answer = peer.get("/studies", f"PatientID={cast.samples.patient_id('P')}&{query}", accept=JSON).expect(200, 204)
    wanted = sorted(cast[f"page{number}"].study_uid for number in numbers)
    found = uids(answer.rows(), "0020000D")
    ensure(found == wanted or "warning" in answer.headers, f"{query} finds {len(found)} studies, without a Warning")


@check("QIDO-139", "8.3.4.2")
def fuzzy_matching(peer: Peer, cast: Cast) -> None:
    """fuzzymatching=true finds at least what is found without it, or a Warning says that it is not supported."""
    query = f"PatientID={cast.samples.patient_id('P')}&PatientName=Sample*&fuzzymatching=true"
    answer = peer.get("/studies", query, accept=JSON)
    found = len(answer.rows())
    ensure(found == PAGES, f"{found} of {PAGES} studies are found")


@check("QIDO-140", "8.3.4.2", SHOULD)
def fuzzy_matching_is_done_or_named(peer: Peer, cast: Cast) -> None:
    """fuzzymatching=true finds a name by its parts in another order, or a Warning says that it is not supported."""
    cast["ct1"]
    keys = {"PatientID": cast.samples.patient_id("A"), "PatientName": "jose angstrom", "fuzzymatching": "true"}
    answer = peer.search("/studies", **keys).expect(200, 204)
    ensure(answer.rows() or "warning" in answer.headers, "the name is not found, and there is no Warning")


@check("QIDO-141", "8.3.4.3", MAY)
def private_attributes(peer: Peer, cast: Cast) -> None:
    """A private attribute is included where its creator is given."""
    query = {"includefield": "00711001", "00710010": PRIVATE_CREATOR}
    rows = peer.get(f"{cast['deep'].series}/instances", query, accept=JSON).rows()
    ensure(rows and "00711001" in rows[0], "the private attribute is not in the result")


@check("QIDO-142", "PS3.4 C.2.2.2.1")
def patient_id_with_wildcard(peer: Peer, cast: Cast) -> None:
    """PatientID matches by wildcard."""
    rows = peer.search("/studies", PatientID=f"{cast.samples.prefix}-?").rows()
    wanted = {sample.study_uid for sample in cast.held()}
    found = set(uids(rows, "0020000D"))
    ensure(wanted <= found, f"{len(wanted - found)} of {len(wanted)} studies are not found")


@check("QIDO-143", "RFC 3986 2.1")
def values_are_decoded(peer: Peer, cast: Cast) -> None:
    """A character that is percent-encoded is that character: %41 is A."""
    patient = cast["ct1"].dataset.PatientID
    ensure_only(cast, peer.get("/studies", f"PatientID={patient[:-1]}%{ord(patient[-1]):02X}", accept=JSON), "ct1")
