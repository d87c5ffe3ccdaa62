"""The Store transaction (PS3.18 10.5, Annex I)."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urljoin

import numpy as np

from conformance.dicomweb.cast import STORE_TYPE, Cast, store, stored_uids
from conformance.dicomweb.checks import MAY, SHOULD, check, ensure
from conformance.dicomweb.jsonmodel import blemishes, first, said, values
from conformance.dicomweb.multipart import write_multipart
from conformance.dicomweb.nativexml import write_native
from conformance.dicomweb.peer import DICOM, JSON, OCTET_PARTS, OCTETS, Answer, Peer
from conformance.dicomweb.samples import Sample

RETRIEVE_URL, FAILED, REFERENCED, REASON = "00081190", "00081198", "00081199", "00081197"
GARBAGE = b"this is no DICOM file, and nobody may take it for one"


def module(answer: Answer) -> dict[str, Any]:
    """The Store Instances Response Module of an answer."""
    answer.expect_type(JSON)
    found = answer.json()
    ensure(isinstance(found, dict), f"the answer is no object but {type(found).__name__}")
    return dict(found)


def is_there(peer: Peer, sample: Sample) -> bool:
    """Whether an instance can be retrieved."""
    answer = peer.get(f"{sample.path}/metadata", accept=JSON).expect(200, 404, 410)
    return answer.status == 200 and [first(row, "00080018") for row in answer.rows()] == [sample.uid]


def ensure_stored(answer: Answer, *samples: Sample) -> None:
    """An answer says that exactly these were stored, and nothing failed."""
    found = sorted(stored_uids(answer.expect(200)))
    ensure(found == sorted(sample.uid for sample in samples), f"stored are {found}")


def post_parts(peer: Peer, *parts: tuple[str, bytes], content_type: str = STORE_TYPE, path: str = "/studies") -> Answer:
    """Store parts that are given as they are to be sent."""
    return peer.post(path, content_type, write_multipart(parts))


@check("STOW-001", "10.5.3.1")
def all_samples(peer: Peer, cast: Cast) -> None:
    """Every sample is stored: images of all kinds, compressed ones, reports, documents, names in all scripts."""
    cast.answer_to("ct1")
    held = {sample.name for sample in cast.held()}
    missing = [sample.name for sample in cast.samples if sample.name not in held and sample.name != "implicit"]
    ensure(not missing, f"not stored: {', '.join(missing)}")


@check("STOW-002", "10.5.3.1")
def all_stored(peer: Peer, cast: Cast) -> None:
    """A request whose instances are all stored is answered by 200."""
    sample = cast.new()
    ensure_stored(store(peer, [sample]), sample)


@check("STOW-003", "10.5.4")
def content_type(peer: Peer, cast: Cast) -> None:
    """The answer asked for as DICOM JSON is one object, and keeps the rules of Annex F."""
    found = [str(blemish) for blemish in blemishes(module(cast.answer_to("ct1")))]
    ensure(not found, said(found))


@check("STOW-004", "I.1")
def referenced_instances(peer: Peer, cast: Cast) -> None:
    """Referenced SOP Sequence has each instance that was stored, with its class."""
    answer = cast.answer_to("ct1")
    wanted = sorted((one.sop_class, one.uid) for one in cast.samples if one.study_uid == cast.samples["ct1"].study_uid)
    items = values(module(answer), REFERENCED)
    found = sorted((str(first(item, "00081150")), str(first(item, "00081155"))) for item in items)
    ensure(found == wanted, f"{len(found)} of {len(wanted)} instances are there, or others")


@check("STOW-005", "I.1")
def url_of_the_study(peer: Peer, cast: Cast) -> None:
    """The Retrieve URL of the answer is where the study is."""
    url = first(module(cast.answer_to("ct1")), RETRIEVE_URL)
    ensure(url, "there is no Retrieve URL")
    rows = peer.get(urljoin(peer.base + "/", f"{url}/metadata"), accept=JSON).rows()
    ensure(rows and first(rows[0], "0020000D") == cast.samples["ct1"].study_uid, f"at {url} there is another study")


@check("STOW-006", "I.1", SHOULD)
def urls_of_the_instances(peer: Peer, cast: Cast) -> None:
    """The Retrieve URL of each instance (type 2) is where the instance is."""
    items = values(module(cast.answer_to("ct1")), REFERENCED)
    ensure(items, "no instance is referenced")
    for item in items[:2]:
        url = first(item, RETRIEVE_URL)
        ensure(url, "an instance has no Retrieve URL")
        rows = peer.get(urljoin(peer.base + "/", f"{url}/metadata"), accept=JSON).rows()
        ensure(rows and first(rows[0], "00080018") == first(item, "00081155"), f"at {url} there is another instance")


@check("STOW-007", "I.1")
def no_empty_failures(peer: Peer, cast: Cast) -> None:
    """Failed SOP Sequence is not there where nothing failed."""
    ensure(FAILED not in module(store(peer, [cast.new()]).expect(200)), "there is a Failed SOP Sequence")


@check("STOW-008", "10.5.2")
def at_once(peer: Peer, cast: Cast) -> None:
    """What was answered as stored can be retrieved and found at once."""
    sample = cast.stored()
    ensure(is_there(peer, sample), "the instance cannot be retrieved")
    ensure(len(peer.search("/studies", StudyInstanceUID=sample.study_uid).rows()) == 1, "the study is not found")


@check("STOW-009", "10.5.1.1.1")
def into_its_study(peer: Peer, cast: Cast) -> None:
    """An instance is stored at the resource of its own study."""
    sample = cast.new()
    ensure_stored(store(peer, [sample], sample.study), sample)
    ensure(is_there(peer, sample), "the instance cannot be retrieved")


@check("STOW-010", "10.5.3.1")
def into_another_study(peer: Peer, cast: Cast) -> None:
    """An instance sent to the resource of another study is not stored, and answered by 409."""
    sample, other = cast.new(), cast.new()
    store(peer, [sample], other.study).expect(409)
    ensure(not is_there(peer, sample), "the instance was stored")


@check("STOW-011", "10.5.3.1")
def partly_into_another_study(peer: Peer, cast: Cast) -> None:
    """Of two instances only the one of the study is stored, and the answer is 202."""
    right, wrong = cast.new(), cast.new()
    answer = store(peer, [right, wrong], right.study).expect(202)
    ensure(stored_uids(answer) == [right.uid], f"stored are {stored_uids(answer)}")
    ensure(is_there(peer, right) and not is_there(peer, wrong), "the wrong one was stored, or the right one not")


@check("STOW-012", "I.1")
def failed_instances(peer: Peer, cast: Cast) -> None:
    """An instance that was not stored is in Failed SOP Sequence, with its class and a Failure Reason."""
    right, wrong = cast.new(), cast.new()
    items = values(module(store(peer, [right, wrong], right.study).expect(202, 409)), FAILED)
    ensure(len(items) == 1, f"{len(items)} items are in Failed SOP Sequence, not 1")
    found = (first(items[0], "00081150"), first(items[0], "00081155"))
    ensure(found == (wrong.sop_class, wrong.uid), f"the item is of {found}")
    reason = first(items[0], REASON)
    ensure(isinstance(reason, int) and 0 < reason <= 0xFFFF, f"Failure Reason is {reason!r}")


@check("STOW-013", "10.5.3.1")
def garbage(peer: Peer, cast: Cast) -> None:
    """A part that is no DICOM file is answered by 400 or 409."""
    cast.new()
    post_parts(peer, (DICOM, GARBAGE)).expect(400, 409)


@check("STOW-014", "10.5.3.1")
def garbage_beside_an_instance(peer: Peer, cast: Cast) -> None:
    """A part that is no DICOM file does not keep the others from being stored: 202."""
    sample = cast.new()
    store(peer, [sample], garbage=GARBAGE).expect(202)
    ensure(is_there(peer, sample), "the instance beside it was not stored")


@check("STOW-015", "10.5.3.1")
def file_that_breaks_off(peer: Peer, cast: Cast) -> None:
    """A DICOM file that breaks off in its header is not stored: 400 or 409."""
    sample = cast.new()
    post_parts(peer, (DICOM, sample.file[:200])).expect(400, 409)


@check("STOW-016", "10.5.3.1")
def type_that_is_not_stored(peer: Peer, cast: Cast) -> None:
    """A body of a media type that is not stored is answered by 415."""
    sample = cast.new()
    peer.post("/studies", "text/plain", sample.file).expect(415)


@check("STOW-017", "10.5.3.1")
def parts_that_are_not_stored(peer: Peer, cast: Cast) -> None:
    """A message whose type parameter is none that is stored is answered by 415."""
    cast.new()
    content_type = 'multipart/related; type="image/gif"; boundary=conformance'
    post_parts(peer, ("image/gif", b"GIF89a"), content_type=content_type).expect(415)


@check("STOW-018", "8.7.9")
def no_content_type(peer: Peer, cast: Cast) -> None:
    """A body without a Content-Type is answered by 400 or 415."""
    sample = cast.new()
    peer.post("/studies", None, write_multipart([(DICOM, sample.file)])).expect(400, 415)


@check("STOW-019", "8.7.3.5.1")
def no_boundary(peer: Peer, cast: Cast) -> None:
    """A message whose Content-Type has no boundary is answered by 400, or by 415."""
    sample = cast.new()
    body = write_multipart([(DICOM, sample.file)])
    peer.post("/studies", 'multipart/related; type="application/dicom"', body).expect(400, 415)


@check("STOW-020", "10.5.3.1")
def wrong_boundary(peer: Peer, cast: Cast) -> None:
    """A message that does not hold its boundary is answered by 400."""
    sample = cast.new()
    content_type = STORE_TYPE.replace("boundary=conformance", "boundary=another")
    post_parts(peer, (DICOM, sample.file), content_type=content_type).expect(400)


@check("STOW-021", "10.5.3.1")
def message_that_breaks_off(peer: Peer, cast: Cast) -> None:
    """A message that ends within a part is not answered as if all were stored."""
    sample = cast.new()
    body = write_multipart([(DICOM, sample.file)])[:-400]
    answer = peer.post("/studies", STORE_TYPE, body).expect_no_failure()
    ensure(answer.status != 200, "the message is cut within its only part, and the answer is 200")


@check("STOW-022", "10.5.1.4")
def empty_body(peer: Peer, cast: Cast) -> None:
    """A request without a body, or with a message without parts, is answered by 400."""
    cast.new()
    peer.post("/studies", STORE_TYPE, b"").expect(400)
    peer.post("/studies", STORE_TYPE, b"--conformance--\r\n").expect(400)


@check("STOW-023", "10.5.3.1")
def again(peer: Peer, cast: Cast) -> None:
    """An instance that is stored again with the same bytes is a success, or a conflict; it is there all the same."""
    sample = cast.stored()
    store(peer, [sample]).expect(200, 202, 409)
    rows = peer.search(f"{sample.study}/instances").rows()
    ensure(len(rows) == 1, f"the study has {len(rows)} instances, not 1")


@check("STOW-024", "10.5.3.1", SHOULD)
def again_is_a_success(peer: Peer, cast: Cast) -> None:
    """An instance that is stored again with the same bytes is answered by 200, as a client that retries needs."""
    sample = cast.stored()
    ensure_stored(store(peer, [sample]), sample)


@check("STOW-025", "10.5.3.1")
def other_bytes_are_told(peer: Peer, cast: Cast) -> None:
    """Other content under a SOP Instance UID that is there is never a silent success.

    A warning (202) or a conflict (409) tells of it; 200 does only where the new content is what is retrieved.
    """
    sample = cast.stored()
    sample.dataset.SeriesDescription = "Something else"
    changed = cast.samples.new(sample.name, study=sample.name, letter="N", SeriesDescription="Something else")
    ensure(changed.uid == sample.uid, "the suite made another instance")
    answer = store(peer, [changed]).expect(200, 202, 409)
    if answer.status == 200 and "warning" not in answer.headers:
        rows = peer.get(f"{sample.path}/metadata", accept=JSON).rows()
        found = first(rows[0], "0008103E") if rows else None
        ensure(found == "Something else", "the new content was answered by 200, and is not there")


@check("STOW-026", "10.5.1.4")
def two_studies(peer: Peer, cast: Cast) -> None:
    """Instances of several studies are stored with one request to /studies."""
    samples = [cast.new(), cast.new()]
    ensure_stored(store(peer, samples), *samples)


@check("STOW-027", "8.7.8.1", SHOULD)
def answer_that_is_not_acceptable(peer: Peer, cast: Cast) -> None:
    """An answer asked for in a media type that is not supported is refused by 406, and nothing is stored."""
    sample = cast.new()
    store(peer, [sample], accept="application/x-nobody-has-this").expect(406)
    ensure(not is_there(peer, sample), "the instance was stored all the same")


@check("STOW-028", "10.5.1.4", SHOULD)
def single_part(peer: Peer, cast: Cast) -> None:
    """One instance is stored as a body of application/dicom, without multipart."""
    sample = cast.new()
    ensure_stored(peer.post("/studies", DICOM, sample.file), sample)


@check("STOW-029", "8.7.1")
def unquoted_type(peer: Peer, cast: Cast) -> None:
    """The type parameter of the Content-Type is read when it is not quoted."""
    sample = cast.new()
    content_type = "multipart/related; type=application/dicom; boundary=conformance"
    ensure_stored(post_parts(peer, (DICOM, sample.file), content_type=content_type), sample)


@check("STOW-030", "RFC 2046 5.1.1")
def odd_boundary(peer: Peer, cast: Cast) -> None:
    """A quoted boundary of any characters that are allowed is read."""
    boundary = "a+b_c,d-e.f/g:h=i?j (k)'l"
    sample = cast.new()
    body = write_multipart([(DICOM, sample.file)], boundary=boundary)
    content_type = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
    ensure_stored(peer.post("/studies", content_type, body), sample)


@check("STOW-031", "RFC 2046 5.1.1")
def preamble(peer: Peer, cast: Cast) -> None:
    """What stands before the first boundary is ignored."""
    sample = cast.new()
    body = write_multipart([(DICOM, sample.file)], preamble=b"A preamble that nobody reads.\r\n")
    ensure_stored(peer.post("/studies", STORE_TYPE, body), sample)


@check("STOW-032", "RFC 2046 5.1.1")
def boundary_in_a_part(peer: Peer, cast: Cast) -> None:
    """The boundary within a line of a part does not end the part."""
    sample = cast.new(ImageComments="a --conformance in a line")
    store(peer, [sample]).expect(200)
    rows = peer.get(f"{sample.path}/metadata", accept=JSON).rows()
    found = first(rows[0], "00204000") if rows else None
    ensure(found == "a --conformance in a line", f"the attribute is {found!r}")


@check("STOW-033", "RFC 2046 5.1")
def headers_of_a_part(peer: Peer, cast: Cast) -> None:
    """Names of the headers of a part are read in any case, and unknown ones are ignored."""
    headers, sample = {"content-TYPE": DICOM, "X-Nobody": "1", "Content-Location": "1.dcm"}, cast.new()
    ensure_stored(peer.post("/studies", STORE_TYPE, write_multipart([(headers, sample.file)])), sample)


@check("STOW-034", "I.1")
def url_that_came_in(peer: Peer, cast: Cast) -> None:
    """A Retrieve URL in the data set that comes in is not the one of the answer."""
    sample = cast.new(RetrieveURL="http://192.0.2.1/elsewhere")
    answer = store(peer, [sample]).expect(200)
    ensure(b"192.0.2.1" not in answer.body, "the answer has the Retrieve URL that came in")
    rows = peer.search("/studies", StudyInstanceUID=sample.study_uid).rows()
    found = first(rows[0], RETRIEVE_URL) if rows else None
    ensure(found != "http://192.0.2.1/elsewhere", "the search has the Retrieve URL that came in")


def _as_json(sample: Sample) -> dict[str, Any]:
    """A sample's data set with its pixels as bulk data."""
    return dict(sample.dataset.to_json_dict(bulk_data_threshold=1, bulk_data_element_handler=lambda element: "pixels"))


def _metadata_type(name: str) -> str:
    return f'multipart/related; type="{name}"; boundary=conformance'


def _bulk(sample: Sample, location: str = "pixels") -> tuple[dict[str, str], bytes]:
    headers = {"Content-Type": f"{OCTETS}; transfer-syntax=1.2.840.10008.1.2.1", "Content-Location": location}
    return headers, bytes(sample.dataset.PixelData)


def _ensure_stored(peer: Peer, sample: Sample, answer: Answer) -> None:
    answer.expect(200)
    ensure(is_there(peer, sample), "the instance cannot be retrieved")
    (part,) = peer.get(f"{sample.path}/frames/1", accept=OCTET_PARTS).parts()
    ensure(part.body == sample.dataset.PixelData, "the pixels are not those that were sent")


@check("STOW-035", "10.5.1.4")
def metadata_in_json(peer: Peer, cast: Cast) -> None:
    """Metadata in JSON and bulk data in parts of their own are stored as an instance."""
    sample = cast.new()
    metadata = json.dumps([_as_json(sample)]).encode()
    body = write_multipart([(JSON, metadata), _bulk(sample)])
    _ensure_stored(peer, sample, peer.post("/studies", _metadata_type(JSON), body))


@check("STOW-036", "10.5.1.4")
def metadata_in_xml(peer: Peer, cast: Cast) -> None:
    """Metadata in XML and bulk data in parts of their own are stored as an instance."""
    sample = cast.new()
    kind = "application/dicom+xml"
    body = write_multipart([(kind, write_native(_as_json(sample))), _bulk(sample)])
    _ensure_stored(peer, sample, peer.post("/studies", _metadata_type(kind), body))


@check("STOW-037", "10.5.1.4")
def metadata_without_its_bulk_data(peer: Peer, cast: Cast) -> None:
    """Metadata whose bulk data does not come is not stored: 400 or 409 (415 where metadata is not taken at all)."""
    sample = cast.new()
    body = write_multipart([(JSON, json.dumps([_as_json(sample)]).encode()), _bulk(sample, "others")])
    peer.post("/studies", _metadata_type(JSON), body).expect(400, 409, 415)
    ensure(not is_there(peer, sample), "the instance was stored")


@check("STOW-038", "10.5.1.4")
def metadata_that_is_no_json(peer: Peer, cast: Cast) -> None:
    """Metadata that is no JSON is answered by 400, 409 or 415."""
    sample = cast.new()
    body = write_multipart([(JSON, b"[{'00080018': nothing"), _bulk(sample)])
    peer.post("/studies", _metadata_type(JSON), body).expect(400, 409, 415)


@check("STOW-039", "10.5.1.4", MAY)
def many_instances_in_json(peer: Peer, cast: Cast) -> None:
    """Metadata of several instances comes in one array, with the bulk data of each."""
    samples = [cast.new(), cast.new()]
    datasets, bulk = [], []
    for sample in samples:
        dataset = _as_json(sample)
        dataset["7FE00010"]["BulkDataURI"] = f"bulk/{sample.uid}"
        datasets.append(dataset)
        bulk.append(_bulk(sample, f"bulk/{sample.uid}"))
    body = write_multipart([(JSON, json.dumps(datasets).encode()), *bulk])
    answer = peer.post("/studies", _metadata_type(JSON), body).expect(200)
    ensure(sorted(stored_uids(answer)) == sorted(one.uid for one in samples), f"stored are {stored_uids(answer)}")


@check("STOW-040", "10.5.2", SHOULD)
def new_values_of_a_study(peer: Peer, cast: Cast) -> None:
    """A second instance of a study is counted at once."""
    one = cast.stored()
    other = cast.new(study=one.name, InstanceNumber=2)
    store(peer, [other]).expect(200, 202)
    (row,) = peer.search("/studies", StudyInstanceUID=one.study_uid).rows() or [{}]
    found = [int(first(row, tag) or 0) for tag in ("00201206", "00201208")]
    ensure(found == [2, 2], f"2 series of 2 instances are counted as {found[0]} of {found[1]}")


@check("STOW-041", "8.7.3", SHOULD)
def large_frame_count(peer: Peer, cast: Cast) -> None:
    """An image of a hundred frames is stored, and its last frame retrieved."""
    pixels = np.broadcast_to(np.arange(1, 101, dtype="<u2")[:, None, None], (100, 4, 4))
    sample = cast.new(NumberOfFrames=100, PixelData=pixels.tobytes())
    store(peer, [sample]).expect(200)
    (part,) = peer.get(f"{sample.path}/frames/100", accept=OCTET_PARTS).parts()
    ensure(part.body == pixels[99].tobytes(), "the part is not frame 100")
