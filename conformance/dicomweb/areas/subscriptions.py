"""AEs subscribe to work items, and hear of them (PS3.18 11.10 to 11.13, 8.10; PS3.4 CC.2.3, CC.2.4)."""

from __future__ import annotations

from conformance.dicomweb.areas.workitems import warned
from conformance.dicomweb.cast import Cast
from conformance.dicomweb.channel import Report, report_of
from conformance.dicomweb.checks import SHOULD, Fault, NotApplicable, check, ensure
from conformance.dicomweb.jsonmodel import blemishes, first, said
from conformance.dicomweb.peer import Answer, Peer
from conformance.dicomweb.watching import ASKED, ASSIGNED, CANCEL_REQUESTED, PROGRESSED, STATE, Story
from conformance.dicomweb.worklist import FILTERED, STATION, WORKLIST

PUSH = "1.2.840.10008.5.1.4.34.6.1"


def websocket_of(answer: Answer) -> str:
    """The URL of the WebSocket that a subscription names."""
    url = str(answer.expect(201).headers.get("content-location", ""))
    ensure(url.startswith(("ws://", "wss://")), f"{answer.named} answers with the Content-Location {url!r}")
    return url


def filtered(cast: Cast, letter: str, **query: str) -> Answer:
    """Subscribe an AE to the work items that match a filter."""
    return cast.worklist.subscribe(FILTERED, letter, filter=f"WorklistLabel={cast.worklist.label}", **query)


# -- Subscribe, Unsubscribe, Suspend Global Subscription ---------------------------------------------------------------


@check("UPS-090", "11.10.3.2", needs="worklist")
def subscribed(peer: Peer, cast: Cast) -> None:
    """A subscription to a work item is answered by 201, and the URL of a WebSocket in Content-Location."""
    websocket_of(cast.worklist.subscribe(cast.worklist.create(), "A"))


@check("UPS-091", "11.10.3.1", needs="worklist")
def subscribed_to_nothing(peer: Peer, cast: Cast) -> None:
    """A subscription to a work item that is not there is answered by 404."""
    cast.worklist.subscribe(cast.worklist.new_uid(), "B").expect(404)


@check("UPS-092", "11.10.1.2", needs="worklist")
def subscribed_with_a_lock(peer: Peer, cast: Cast) -> None:
    """A subscription with a Deletion Lock is taken; where the lock is not granted, a Warning says so."""
    answer = cast.worklist.subscribe(cast.worklist.create(), "C", deletionlock="true").expect(201)
    if answer.headers.get_list("warning"):
        warned(answer, "Deletion Lock not granted")


@check("UPS-093", "11.10.1.1", needs="worklist")
def subscribed_to_all(peer: Peer, cast: Cast) -> None:
    """A subscription to the worklist is answered by 201 and the URL of a WebSocket."""
    websocket_of(cast.worklist.subscribe(WORKLIST, "D"))
    cast.worklist.unsubscribe(WORKLIST, "D").expect(200)


@check("UPS-094", "11.10.3.2", needs="worklist")
def subscribed_to_some(peer: Peer, cast: Cast) -> None:
    """A subscription with a filter is answered by 201, or by 403 and the Warning that there are none here."""
    answer = filtered(cast, "E").expect(201, 403)
    if answer.status == 403:
        warned(answer, "Filtered Worklist Subscriptions are not supported")
    else:
        websocket_of(answer)


@check("UPS-095", "11.10.1.2", needs="worklist")
def filter_that_is_missing(peer: Peer, cast: Cast) -> None:
    """A subscription to the filtered worklist without a filter is refused."""
    cast.worklist.subscribe(FILTERED, "F").expect(400, 403)


@check("UPS-096", "11.11.3.1", needs="worklist")
def unsubscribed(peer: Peer, cast: Cast) -> None:
    """A subscription to a work item is ended by DELETE, with 200; it is not found then: 404."""
    uid = cast.worklist.create()
    cast.worklist.subscribe(uid, "G").expect(201)
    cast.worklist.unsubscribe(uid, "G").expect(200)
    cast.worklist.unsubscribe(uid, "G").expect(404)


@check("UPS-097", "11.11.3.1", needs="worklist")
def never_subscribed(peer: Peer, cast: Cast) -> None:
    """To end a subscription that there never was is answered by 404."""
    cast.worklist.unsubscribe(cast.worklist.create(), "H").expect(404)


@check("UPS-098", "11.11.3.1", needs="worklist")
def unsubscribed_from_all(peer: Peer, cast: Cast) -> None:
    """A subscription to the worklist is ended by DELETE, with 200; it is not found then: 404."""
    cast.worklist.subscribe(WORKLIST, "I").expect(201)
    cast.worklist.unsubscribe(WORKLIST, "I").expect(200)
    cast.worklist.unsubscribe(WORKLIST, "I").expect(404)


@check("UPS-099", "11.12.3.1", needs="worklist")
def suspended(peer: Peer, cast: Cast) -> None:
    """A subscription to the worklist is suspended, with 200; it is not found then: 404."""
    cast.worklist.subscribe(WORKLIST, "J").expect(201)
    cast.worklist.suspend(WORKLIST, "J").expect(200)
    cast.worklist.suspend(WORKLIST, "J").expect(404)


# -- Open Notification Connection, Send Event Report -------------------------------------------------------------------


def reports(story: Story) -> list[Report]:
    """All reports that were heard; a `Fault` where there are none."""
    found = [report for message in story.messages if (report := report_of(message)) is not None]
    ensure(found, "the WebSocket is open, and nothing is heard on it")
    return found


def only(found: list[Report], what: str) -> Report:
    """The one report that there has to be."""
    ensure(len(found) == 1, f"{len(found)} reports are heard {what}, not 1")
    return found[0]


def silent(cast: Cast, name: str, why: str) -> None:
    """Nothing was heard of an item, though what came after it was."""
    story = cast.story()
    ensure(story.about("last"), "not even the last subscription is reported")
    found = story.about(name)
    ensure(not found, f"{len(found)} reports are heard of a work item {why}")


@check("UPS-110", "8.10.4", needs="worklist")
def opened(peer: Peer, cast: Cast) -> None:
    """The WebSocket that a subscription names opens for a user agent that offers the subprotocol dicom."""
    with peer.listen(websocket_of(cast.worklist.subscribe(cast.worklist.create(), "K"))):
        pass


@check("UPS-111", "8.10.5.1.1", needs="worklist")
def data_sets(peer: Peer, cast: Cast) -> None:
    """Each event report is a text message that holds one data set of DICOM JSON."""
    messages = cast.story().messages
    ensure(messages, "nothing is heard")
    for message in messages:
        report = report_of(message)
        if not isinstance(message, str) or report is None:
            raise Fault(f"a message is no JSON object in a text frame: {message[:80]!r}")
        breaches = [str(blemish) for blemish in blemishes(report)]
        ensure(not breaches, said(breaches))


@check("UPS-112", "11.13", needs="worklist")
def command_elements(peer: Peer, cast: Cast) -> None:
    """Each event report names its Affected SOP Class and Instance, and its Event Type."""
    for report in reports(cast.story()):
        lacking = [tag for tag in ("00000002", "00001000", "00001002") if first(report, tag) is None]
        ensure(not lacking, f"{', '.join(lacking)} are not in {sorted(report)}")


@check("UPS-113", "PS3.4 CC.2.4.3", needs="worklist")
def affected_class(peer: Peer, cast: Cast) -> None:
    """The Affected SOP Class of a report is UPS Push, of which all work items are."""
    found = {first(report, "00000002") for report in reports(cast.story())}
    ensure(found == {PUSH}, f"it is {' and '.join(map(str, found))}")


@check("UPS-114", "PS3.4 CC.2.4.3", needs="worklist")
def at_first(peer: Peer, cast: Cast) -> None:
    """Who subscribes to a work item is told its Procedure Step State and Input Readiness State."""
    found = cast.story().about("last", STATE)
    report = only(found, "of a work item that was subscribed to")
    told = first(report, "00741000"), first(report, "00404041")
    ensure(told == ("SCHEDULED", "READY"), f"{told} is told")


@check("UPS-115", "PS3.4 CC.2.4.3", needs="worklist")
def of_states(peer: Peer, cast: Cast) -> None:
    """Every change of the Procedure Step State is reported, in the order of the changes."""
    states = list(dict.fromkeys(cast.story().states("done")))
    wanted = ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    if states[:1] != wanted[:1]:  # the subscription came before the WebSocket was open
        wanted = wanted[1:]
    ensure(states == wanted, f"{states} are reported")


@check("UPS-116", "PS3.4 CC.2.4.3", needs="worklist")
def of_readiness(peer: Peer, cast: Cast) -> None:
    """Every change of the Input Readiness State is reported, with the Procedure Step State."""
    told = [(first(one, "00741000"), first(one, "00404041")) for one in cast.story().about("done", STATE)]
    ensure(("SCHEDULED", "INCOMPLETE") in told, f"INCOMPLETE is not reported, but {told}")
    ensure(None not in {state for pair in told for state in pair}, f"a state is left out: {told}")


@check("UPS-117", "PS3.4 CC.2.4.3", needs="worklist")
def of_progress(peer: Peer, cast: Cast) -> None:
    """Progress that a performer sets is reported."""
    report = only(cast.story().about("done", PROGRESSED), "of the progress")
    progress = first(report, "00741002") or {}
    ensure(first(progress, "00741006") == "Half of it", f"Progress Information is {progress}")


@check("UPS-118", "PS3.4 Table CC.2.4-1", needs="worklist")
def of_requests(peer: Peer, cast: Cast) -> None:
    """A request to cancel what is IN PROGRESS is reported, with who asks, why, and whom to talk to."""
    report = only(cast.story().about("done", CANCEL_REQUESTED), "of the request to cancel")
    ensure(first(report, "00741236"), "there is no Requesting AE")
    told = {tag: report.get(tag) for tag in ASKED}
    ensure(told == ASKED, f"{told} is told of it")


@check("UPS-119", "PS3.4 CC.2.4.3", needs="worklist")
def of_assignments(peer: Peer, cast: Cast) -> None:
    """A station that a work item is assigned to is reported."""
    report = only(cast.story().about("done", ASSIGNED), "of the assignment")
    ensure(report.get("00404025") == STATION["00404025"], f"the station is {report.get('00404025')}")


@check("UPS-120", "PS3.4 CC.2.2.3", needs="worklist")
def of_cancellations(peer: Peer, cast: Cast) -> None:
    """A request to cancel what is SCHEDULED is reported as a change to IN PROGRESS and one to CANCELED."""
    states = cast.story().states("canceled")
    ensure(states == ["SCHEDULED", "IN PROGRESS", "CANCELED"], f"{states} are reported")


@check("UPS-121", "PS3.4 Table CC.2.3-2", needs="worklist")
def of_strangers(peer: Peer, cast: Cast) -> None:
    """Nothing is reported of a work item that the AE has not subscribed to."""
    silent(cast, "strange", "that was not subscribed to")


@check("UPS-122", "PS3.4 Table CC.2.3-2", needs="worklist")
def of_what_was_left(peer: Peer, cast: Cast) -> None:
    """Nothing is reported of what becomes of a work item after the AE has unsubscribed from it."""
    story = cast.story()
    ensure(story.states("left")[:1] == ["SCHEDULED"], "the subscription was not reported")
    ensure(story.states("left") == ["SCHEDULED"], f"{story.states('left')} are reported, the claim too")


@check("UPS-123", "PS3.4 CC.2.4.3", needs="worklist")
def of_new_ones(peer: Peer, cast: Cast) -> None:
    """Who is subscribed to the worklist is told of each new work item."""
    states = cast.story().states("new")
    ensure(states[:1] == ["SCHEDULED"], f"{states} are reported of a new work item")


@check("UPS-124", "PS3.4 CC.2.4.3", needs="worklist")
def of_new_assignments(peer: Peer, cast: Cast) -> None:
    """A new work item that is assigned to a station is reported as assigned too."""
    report = only(cast.story().about("assigned", ASSIGNED), "of the assignment of a new work item")
    ensure(report.get("00404025") == STATION["00404025"], f"the station is {report.get('00404025')}")


@check("UPS-125", "11.12", needs="worklist")
def of_late_ones(peer: Peer, cast: Cast) -> None:
    """While a subscription to the worklist is suspended, new work items are not reported."""
    silent(cast, "late", "that was created after the suspension")


@check("UPS-126", "11.12", needs="worklist")
def of_known_ones(peer: Peer, cast: Cast) -> None:
    """A suspended subscription goes on for the work items that there were before."""
    states = cast.story().states("new")
    ensure("IN PROGRESS" in states, f"{states} are reported, not the claim after the suspension")


@check("UPS-127", "11.10.1.2", needs="worklist")
def of_matching_ones(peer: Peer, cast: Cast) -> None:
    """Who subscribes with a filter is told of new work items that match it, and of no others."""
    story = cast.story()
    if not story.has_filter:
        raise NotApplicable("there are no subscriptions with a filter here")
    ensure(story.states("matching") == ["SCHEDULED"], f"{story.states('matching')} are reported of one that matches")
    silent(cast, "other", "that does not match the filter")


@check("UPS-128", "PS3.4 CC.2.3.3", needs="worklist")
def of_those_that_match_already(peer: Peer, cast: Cast) -> None:
    """Who subscribes with a filter and a Deletion Lock is told of the work items that match it already."""
    story = cast.story()
    if not story.has_filter:
        raise NotApplicable("there are no subscriptions with a filter here")
    states = story.states("matched before")
    ensure(states == ["SCHEDULED"], f"{states} are reported")


@check("UPS-129", "PS3.4 Table CC.2.3-2", needs="worklist")
def of_nothing(peer: Peer, cast: Cast) -> None:
    """Who unsubscribes from the worklist hears nothing more of the work items that it brought."""
    states = cast.story().states("forgotten")
    ensure(states == ["SCHEDULED"], f"{states} are reported, the claim after the end too")


@check("UPS-130", "11.5.2", needs="worklist")
def of_locks(peer: Peer, cast: Cast) -> None:
    """No event report has a Transaction UID."""
    story = cast.story()
    for report in reports(story):
        ensure("00081195" not in report, "an event report has the attribute Transaction UID (0008,1195)")
    told = [token for token in story.tokens for message in story.messages if token in str(message)]
    ensure(not told, f"{len(told)} event reports tell the Transaction UID of a claim")


@check("UPS-131", "8.10.5", SHOULD, needs="worklist")
def each_once(peer: Peer, cast: Cast) -> None:
    """No event report comes twice."""
    for name in ("new", "canceled", "last"):
        states = cast.story().states(name)
        ensure(states and len(states) == len(set(states)), f"{states} are reported of one work item")
