"""What is deleted is gone (PS3.18 8.5, 10.4.3.1).

The standard has no Delete transaction for studies; it has the answer to who asks for what was deleted.
"""

from __future__ import annotations

from conformance.dicomweb.cast import Cast, store
from conformance.dicomweb.checks import MAY, SHOULD, Fault, check, ensure
from conformance.dicomweb.jsonmodel import first
from conformance.dicomweb.peer import DICOM_PARTS, JSON, OCTET_PARTS, Answer, Peer


def delete(peer: Peer, path: str) -> Answer:
    """Delete what is at a path."""
    return peer.ask("DELETE", path).expect(200, 202, 204)


@check("DEL-001", "8.5", MAY)
def is_offered(peer: Peer, cast: Cast) -> None:
    """A study can be deleted with DELETE."""
    if why := cast.missing("delete"):
        raise Fault(why)
    delete(peer, cast.stored().study)


@check("DEL-002", "10.4.3.1", needs="delete")
def deleted_instance(peer: Peer, cast: Cast) -> None:
    """An instance that was deleted is not retrieved any more, in no form."""
    sample = cast.stored()
    delete(peer, sample.path)
    for path, accept in (
        (sample.path, DICOM_PARTS),
        (f"{sample.path}/metadata", JSON),
        (f"{sample.path}/frames/1", OCTET_PARTS),
    ):
        peer.get(path, accept=accept).expect(404, 410)


@check("DEL-003", "10.4.3.1", SHOULD, needs="delete")
def gone(peer: Peer, cast: Cast) -> None:
    """What is known to have been deleted is answered by 410, at each level."""
    sample = cast.stored()
    delete(peer, sample.study)
    for path in (sample.study, sample.series, sample.path):
        peer.get(f"{path}/metadata", accept=JSON).expect(410)


@check("DEL-004", "10.6", needs="delete")
def not_found(peer: Peer, cast: Cast) -> None:
    """What was deleted is not found any more."""
    sample = cast.stored()
    delete(peer, sample.study)
    ensure(not peer.search("/studies", StudyInstanceUID=sample.study_uid).rows(), "the study is found")
    ensure(not peer.search("/instances", SOPInstanceUID=sample.uid).rows(), "the instance is found")


@check("DEL-005", "10.6.3.3.1", needs="delete")
def counted(peer: Peer, cast: Cast) -> None:
    """A series that was deleted is not counted any more, and its modality is gone from the study."""
    one = cast.stored()
    other = cast.new(study=one.name, Modality="XC")
    store(peer, [other]).expect(200, 202)
    delete(peer, other.series)
    (row,) = peer.search("/studies", StudyInstanceUID=one.study_uid).rows() or [{}]
    found = [int(first(row, tag) or 0) for tag in ("00201206", "00201208")]
    ensure(found == [1, 1], f"1 series of 1 instance is counted as {found[0]} of {found[1]}")
    ensure("XC" not in row.get("00080061", {}).get("Value", []), "the modality of the series is still there")


@check("DEL-006", "8.5", needs="delete")
def delete_what_is_not_there(peer: Peer, cast: Cast) -> None:
    """To delete what is not there is answered by 404."""
    peer.ask("DELETE", f"/studies/{cast.samples.uid('nowhere')}").expect(404)


@check("DEL-007", "8.5", needs="delete")
def delete_below_another_parent(peer: Peer, cast: Cast) -> None:
    """To delete an instance below a study that it is not of is answered by 404, and deletes nothing."""
    one, other = cast.stored(), cast.stored()
    peer.ask("DELETE", f"{other.study}/series/{one.series_uid}/instances/{one.uid}").expect(404)
    peer.get(f"{one.path}/metadata", accept=JSON).expect(200)


@check("DEL-008", "8.5", needs="delete")
def the_rest_stays(peer: Peer, cast: Cast) -> None:
    """To delete an instance leaves the others of its study as they are."""
    one = cast.stored()
    other = cast.new(study=one.name, InstanceNumber=2)
    store(peer, [other]).expect(200, 202)
    delete(peer, one.path)
    ensure(peer.get(f"{other.path}/metadata", accept=JSON).rows(), "the other has no metadata")


@check("DEL-009", "10.5.3.1", SHOULD, needs="delete")
def stored_again(peer: Peer, cast: Cast) -> None:
    """What was deleted can be stored again."""
    sample = cast.stored()
    delete(peer, sample.study)
    store(peer, [sample]).expect(200, 202)
    ensure(peer.get(f"{sample.path}/metadata", accept=JSON).rows(), "it has no metadata")
