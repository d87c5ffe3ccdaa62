"""A check that cannot fail is a defect: each one is shown a server with a fault that it has to catch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from conformance.dicomweb.cast import Cast
from conformance.dicomweb.channel import listen
from conformance.dicomweb.checks import CHECKS, Fault, NotApplicable
from conformance.dicomweb.peer import Peer
from conformance.dicomweb.plugin import run_check
from conformance.dicomweb.samples import Samples
from tests.conformance.broken import Broken, refuses
from tests.conformance.faults import FAULTS
from tests.servers import Live

CAUGHT = {
    name: ids.split()
    for name, _, ids in (
        line.partition("\t") for line in (Path(__file__).parent / "caught.tsv").read_text().splitlines()
    )
}
"""Faults, and checks that catch them; every check stands at one fault at least."""


PATIENCE_SECONDS = 2.0
"""For reports that a fault keeps away; the others come at once."""


@pytest.fixture(scope="module")
def inner() -> Iterator[httpx.HTTPTransport]:
    with httpx.HTTPTransport() as transport:
        yield transport


@pytest.fixture(scope="module")
def honest(live: Live, inner: httpx.HTTPTransport) -> Cast:
    """The samples on this server, as it is."""
    cast = Cast(Peer(httpx.Client(transport=inner), live.dicomweb), Samples("faults"))
    cast.store_samples()
    return cast


@pytest.mark.parametrize("name", CAUGHT)
def test_a_fault_is_caught(name: str, honest: Cast, inner: httpx.HTTPTransport) -> None:
    fault = FAULTS[name]
    client = httpx.Client(transport=Broken(fault, inner))
    peer = Peer(client, honest.peer.base, opens=fault.opens or listen, patience_seconds=PATIENCE_SECONDS)
    cast = honest.seen_by(peer)
    missed = []
    for id in CAUGHT[name]:
        try:
            run_check(CHECKS[id], peer, cast)
        except Fault:
            continue
        except NotApplicable as why:
            missed.append(f"{id} is skipped: {why}")
        else:
            missed.append(f"{id} passes")
    assert missed == []


def test_every_check_has_a_fault_that_it_catches() -> None:
    caught = {id for ids in CAUGHT.values() for id in ids} | {"STOW-001"}  # whose test is the next
    assert caught == set(CHECKS)
    assert set(CAUGHT) == set(FAULTS)


def test_samples_that_are_not_stored_are_missed(live: Live, inner: httpx.HTTPTransport) -> None:
    refusing = Broken(refuses(409, method="POST", body=r"1\.2\.840\.10008\.1\.2\.4\.201"), inner)
    peer = Peer(httpx.Client(transport=refusing), live.dicomweb)
    with pytest.raises(Fault, match=r"not stored: .*htj2k"):
        CHECKS["STOW-001"].run(peer, Cast(peer, Samples("refused")))


CONTENT_WITH_NOTHING = {
    "BAD-012", "BAD-013", "BAD-015", "BAD-016", "BAD-017", "BAD-018", "BAD-019", "BAD-021", "BAD-024",
    "DEL-001", "HTTP-011", "HTTP-014",
}  # fmt: skip
"""Checks that look at the status alone, of which 200 is one that is right."""


@pytest.mark.parametrize(("status", "may_pass"), [(500, set()), (200, CONTENT_WITH_NOTHING)])
def test_no_check_passes_where_nothing_works(honest: Cast, status: int, may_pass: set[str]) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(status))
    peer = Peer(httpx.Client(transport=transport), honest.peer.base)
    cast = honest.seen_by(peer)
    passed = set[str]()
    for check in CHECKS.values():
        with suppress(Exception):  # what is not there cannot be read, in whatever way
            check.run(peer, cast)
            passed.add(check.id)
    assert passed - {"STOW-001"} == may_pass
