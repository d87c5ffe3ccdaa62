"""Work items are claimed, completed and canceled (PS3.18 11.7, 11.8; PS3.4 CC.1.1)."""

from __future__ import annotations

from conformance.dicomweb.areas.workitems import warned
from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import SHOULD, check, ensure
from conformance.dicomweb.jsonmodel import first
from conformance.dicomweb.peer import Answer, Peer
from conformance.dicomweb.watching import ASKED, REASON
from conformance.dicomweb.worklist import DISCONTINUED, PERFORMED, Worklist

NO_TOKEN, WRONG_TOKEN = "The Transaction UID is missing", "The Transaction UID is incorrect"
INCONSISTENT = "The submitted request is inconsistent with the state of the UPS Instance"
ALREADY = "The UPS is already in the requested state of"


def refused(worklist: Worklist, uid: str, state: str, token: str) -> Answer:
    """A change of state that has to be refused, and to change nothing."""
    before = worklist.state(uid)
    answer = worklist.change(uid, state, token).expect(400, 409)
    after = worklist.state(uid)
    ensure(after == before, f"to make it {state} is refused, and {before} has become {after}")
    return answer


# -- Change Workitem State ---------------------------------------------------------------------------------------------


@check("UPS-041", "11.7.2", needs="worklist")
def claimed(peer: Peer, cast: Cast) -> None:
    """A work item that is SCHEDULED is claimed with a Transaction UID, and is IN PROGRESS then."""
    uid, _ = cast.worklist.claimed()
    ensure(cast.worklist.state(uid) == "IN PROGRESS", f"it is {cast.worklist.state(uid)}")


@check("UPS-042", "11.7.3.3", needs="worklist")
def changed_without_payload(peer: Peer, cast: Cast) -> None:
    """The answer to a change of state that succeeds has no payload."""
    uid = cast.worklist.create()
    answer = cast.worklist.change(uid, "IN PROGRESS", cast.worklist.new_uid()).expect(200)
    ensure(not answer.body, f"it has {len(answer.body)} bytes")


@check("UPS-043", "PS3.4 Table CC.1.1-2", needs="worklist")
def claimed_once(peer: Peer, cast: Cast) -> None:
    """A work item that is claimed cannot be claimed by another, and stays the first one's."""
    uid, token = cast.worklist.claimed()
    refused(cast.worklist, uid, "IN PROGRESS", cast.worklist.new_uid())
    cast.worklist.update(uid, PERFORMED, token).expect(200)
    cast.worklist.change(uid, "COMPLETED", token).expect(200)


@check("UPS-044", "PS3.4 Table CC.1.1-2", needs="worklist")
def ended_unclaimed(peer: Peer, cast: Cast) -> None:
    """A work item that nobody has claimed cannot be COMPLETED or CANCELED by a change of state."""
    uid = cast.worklist.create()
    for state in ("COMPLETED", "CANCELED"):
        refused(cast.worklist, uid, state, cast.worklist.new_uid())


@check("UPS-045", "11.7.1.4", needs="worklist")
def claimed_without_a_token(peer: Peer, cast: Cast) -> None:
    """A change of state without a Transaction UID is refused, with the Warning for it."""
    uid = cast.worklist.create()
    warned(refused(cast.worklist, uid, "IN PROGRESS", ""), NO_TOKEN)
    mine, _ = cast.worklist.claimed()
    warned(refused(cast.worklist, mine, "COMPLETED", ""), NO_TOKEN)


@check("UPS-046", "11.7.3.2", needs="worklist")
def ended_by_another(peer: Peer, cast: Cast) -> None:
    """A change of state with another Transaction UID than the claim's is refused, with the Warning for it."""
    uid, token = cast.worklist.claimed()
    cast.worklist.update(uid, {**PERFORMED, **DISCONTINUED}, token).expect(200)
    for state in ("COMPLETED", "CANCELED"):
        warned(refused(cast.worklist, uid, state, cast.worklist.new_uid()), WRONG_TOKEN)


@check("UPS-047", "11.7.3.1", SHOULD, needs="worklist")
def status_of_tokens(peer: Peer, cast: Cast) -> None:
    """A missing Transaction UID is answered by 400, and a wrong one by 409; by 400 in editions up to 2024."""
    uid, _ = cast.worklist.claimed()
    cast.worklist.change(uid, "CANCELED", "").expect(400)
    cast.worklist.change(uid, "CANCELED", cast.worklist.new_uid()).expect(409)


@check("UPS-048", "11.7.3.1", SHOULD, needs="worklist")
def status_of_conflicts(peer: Peer, cast: Cast) -> None:
    """A change that the state of the work item does not allow is answered by 409."""
    uid, _ = cast.worklist.claimed()
    cast.worklist.change(uid, "IN PROGRESS", cast.worklist.new_uid()).expect(409)
    ended, token = cast.worklist.completed()
    cast.worklist.change(ended, "CANCELED", token).expect(409)


@check("UPS-049", "11.7.3.2", needs="worklist")
def warning_of_conflicts(peer: Peer, cast: Cast) -> None:
    """A change that the state of the work item does not allow has the Warning for it."""
    uid, _ = cast.worklist.claimed()
    warned(cast.worklist.change(uid, "IN PROGRESS", cast.worklist.new_uid()).expect_refusal(), INCONSISTENT)


@check("UPS-050", "PS3.4 Table CC.1.1-2", needs="worklist")
def scheduled_again(peer: Peer, cast: Cast) -> None:
    """A work item that is IN PROGRESS does not become SCHEDULED again, nor anything that is no state."""
    uid, token = cast.worklist.claimed()
    for state in ("SCHEDULED", "LOST"):
        refused(cast.worklist, uid, state, token)


@check("UPS-051", "PS3.4 CC.2.1.3", needs="worklist")
def completed_too_early(peer: Peer, cast: Cast) -> None:
    """A work item is not COMPLETED before it has what the final state requires."""
    uid, token = cast.worklist.claimed()
    refused(cast.worklist, uid, "COMPLETED", token)


@check("UPS-052", "11.7.2", needs="worklist")
def completed(peer: Peer, cast: Cast) -> None:
    """A work item that has what the final state requires becomes COMPLETED."""
    uid, _ = cast.worklist.completed()
    ensure(cast.worklist.state(uid) == "COMPLETED", f"it is {cast.worklist.state(uid)}")


@check("UPS-053", "11.7.2", needs="worklist")
def canceled(peer: Peer, cast: Cast) -> None:
    """Who has claimed a work item can make it CANCELED."""
    uid, _ = cast.worklist.canceled()
    ensure(cast.worklist.state(uid) == "CANCELED", f"it is {cast.worklist.state(uid)}")


@check("UPS-054", "11.7.3.2", needs="worklist")
def ended_again(peer: Peer, cast: Cast) -> None:
    """To make COMPLETED or CANCELED what is so already is answered by 200 and the Warning for it."""
    for state, (uid, token) in (("COMPLETED", cast.worklist.completed()), ("CANCELED", cast.worklist.canceled())):
        warned(cast.worklist.change(uid, state, token).expect(200), f"{ALREADY} {state}")


@check("UPS-055", "PS3.4 Table CC.1.1-2", needs="worklist")
def ended_for_good(peer: Peer, cast: Cast) -> None:
    """What is COMPLETED or CANCELED does not come to another state."""
    for other, (uid, token) in (("CANCELED", cast.worklist.completed()), ("COMPLETED", cast.worklist.canceled())):
        refused(cast.worklist, uid, "IN PROGRESS", token)
        refused(cast.worklist, uid, other, token)


@check("UPS-056", "11.7.3.1", needs="worklist")
def state_of_nothing(peer: Peer, cast: Cast) -> None:
    """A change of the state of a work item that is not there is answered by 404."""
    cast.worklist.change(cast.worklist.new_uid(), "IN PROGRESS", cast.worklist.new_uid()).expect(404)


# -- Request Cancellation ----------------------------------------------------------------------------------------------


@check("UPS-057", "PS3.4 CC.2.2.3", needs="worklist")
def canceled_on_request(peer: Peer, cast: Cast) -> None:
    """What nobody has claimed is CANCELED by a request for it; this needs no payload, and is answered by 202."""
    uid = cast.worklist.create()
    cast.worklist.request_cancel(uid).expect(202)
    ensure(cast.worklist.state(uid) == "CANCELED", f"it is {cast.worklist.state(uid)}")


@check("UPS-058", "PS3.4 CC.2.2.3", SHOULD, needs="worklist")
def reason_of_the_request(peer: Peer, cast: Cast) -> None:
    """A work item that was canceled by a request says for what reason, and when."""
    uid = cast.worklist.create()
    cast.worklist.request_cancel(uid, ASKED).expect(202)
    progress = first(cast.worklist.shown(uid), "00741002") or {}
    ensure(first(progress, "00741238") == REASON, f"Reason For Cancellation is {first(progress, '00741238')}")
    ensure(first(progress, "00404052"), "there is no Procedure Step Cancellation DateTime")


@check("UPS-059", "11.8.3.1", needs="worklist")
def requested_of_the_claimant(peer: Peer, cast: Cast) -> None:
    """The cancellation of a work item that is IN PROGRESS can be asked for: 202, or 409 where nobody hears of it."""
    uid, _ = cast.worklist.claimed()
    cast.worklist.request_cancel(uid, ASKED).expect(202, 409)
    ensure(cast.worklist.state(uid) in ("IN PROGRESS", "CANCELED"), f"it is {cast.worklist.state(uid)}")


@check("UPS-060", "11.8.3.2", needs="worklist")
def canceled_twice(peer: Peer, cast: Cast) -> None:
    """A request to cancel what is CANCELED already is answered by 202 and the Warning for it."""
    uid, _ = cast.worklist.canceled()
    warned(cast.worklist.request_cancel(uid).expect(202), f"{ALREADY} CANCELED")


@check("UPS-061", "11.8.3.1", needs="worklist")
def canceled_too_late(peer: Peer, cast: Cast) -> None:
    """A request to cancel what is COMPLETED is answered by 409, and it stays so."""
    uid, _ = cast.worklist.completed()
    cast.worklist.request_cancel(uid).expect(409)
    ensure(cast.worklist.state(uid) == "COMPLETED", f"it is {cast.worklist.state(uid)}")


@check("UPS-062", "11.8.3.2", SHOULD, needs="worklist")
def warning_of_the_late(peer: Peer, cast: Cast) -> None:
    """A request to cancel what is COMPLETED has the Warning for it.

    The standard writes it without the 299 that every Warning begins with.
    """
    uid, _ = cast.worklist.completed()
    found = cast.worklist.request_cancel(uid).expect_refusal().headers.get_list("warning")
    ensure(any("The UPS is already COMPLETED" in one for one in found), f"the Warnings are {found}")


@check("UPS-063", "11.8.3.1", needs="worklist")
def cancellation_of_nothing(peer: Peer, cast: Cast) -> None:
    """A request to cancel a work item that is not there is answered by 404."""
    cast.worklist.request_cancel(cast.worklist.new_uid()).expect(404)
