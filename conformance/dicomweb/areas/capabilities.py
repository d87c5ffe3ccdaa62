"""The Retrieve Capabilities transaction (PS3.18 8.9, Annex H)."""

from __future__ import annotations

from typing import Any

from lxml import etree

from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import MAY, Fault, check, ensure
from conformance.dicomweb.peer import Peer

WADL = "application/vnd.sun.wadl+xml"
NAMESPACE = "http://wadl.dev.java.net/2009/02"


def described(peer: Peer) -> Any:
    """The root element of the Capabilities Description."""
    answer = peer.ask("OPTIONS", "/", accept=WADL).expect(200).expect_type(WADL)
    try:
        return etree.fromstring(answer.body, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise Fault(f"the description is no well-formed XML: {error}") from None


def resources(root: Any) -> dict[str, Any]:
    """Every resource element by its whole path, without slashes at the ends."""
    found: dict[str, Any] = {}

    def walk(element: Any, path: str) -> None:
        for child in element:
            if etree.QName(child).localname == "resource":
                here = f"{path}/{child.get('path', '').strip('/')}".strip("/")
                found[here] = child
                walk(child, here)

    for element in root:
        if etree.QName(element).localname == "resources":
            walk(element, "")
    return found


def methods(resource: Any) -> set[str]:
    """The names of the methods of a resource."""
    return {child.get("name", "") for child in resource if etree.QName(child).localname == "method"}


@check("CAP-001", "8.9")
def is_offered(peer: Peer, cast: Cast) -> None:
    """OPTIONS on the service root is answered by a WADL document, which all RESTful services shall implement."""
    peer.ask("OPTIONS", "/", accept=WADL).expect(200).expect_type(WADL)


@check("CAP-002", "H", needs="capabilities")
def application(peer: Peer, cast: Cast) -> None:
    """The document has one top-level application element, in the namespace of WADL."""
    root = described(peer)
    ensure(root.tag == f"{{{NAMESPACE}}}application", f"the root element is {root.tag}")


@check("CAP-003", "H", needs="capabilities")
def base(peer: Peer, cast: Cast) -> None:
    """The application has one resources element, whose base is the URL of the service."""
    found = [one.get("base", "") for one in described(peer) if etree.QName(one).localname == "resources"]
    ensure(len(found) == 1, f"there are {len(found)} resources elements")
    ensure(found[0].rstrip("/") == peer.base, f"base is {found[0]!r}, not {peer.base!r}")


@check("CAP-004", "H", needs="capabilities")
def studies(peer: Peer, cast: Cast) -> None:
    """The resource studies is described, with the methods that search and store."""
    found = {path.partition("/{")[0]: methods(one) for path, one in reversed(resources(described(peer)).items())}
    ensure("GET" in found.get("studies", set()), f"studies has the methods {sorted(found.get('studies', set()))}")
    if not cast.missing("store"):
        ensure("POST" in found["studies"], f"studies has the methods {sorted(found['studies'])}, and it stores")


@check("CAP-005", "H", needs="capabilities")
def children(peer: Peer, cast: Cast) -> None:
    """Series, instances, metadata and frames are described below their parents."""
    paths = list(resources(described(peer)))
    for last in ("series", "instances", "metadata"):
        ensure(any(path.rpartition("/")[2] == last for path in paths), f"{last} is not described")
    ensure(any("frames" in path for path in paths), "frames are not described")


@check("CAP-006", "H", needs="capabilities")
def representations(peer: Peer, cast: Cast) -> None:
    """Methods that retrieve describe which media types they answer with."""
    root = described(peer)
    found = {one.get("mediaType", "") for one in root.iter() if etree.QName(one).localname == "representation"}
    found |= {one.get("value", "") for one in root.iter() if etree.QName(one).localname == "option"}
    ensure(any("application/dicom+json" in one for one in found), "application/dicom+json is nowhere")
    ensure(any(one.startswith("multipart/related") for one in found), "multipart/related is nowhere")


@check("CAP-007", "8.9", MAY, needs="capabilities")
def in_json(peer: Peer, cast: Cast) -> None:
    """The description is there in JSON as well."""
    answer = peer.ask("OPTIONS", "/", accept="application/json").expect(200).expect_type("application/json")
    answer.json()


@check("CAP-008", "8.7.8.1", needs="capabilities")
def type_that_is_not_offered(peer: Peer, cast: Cast) -> None:
    """The description in a media type that is not supported is answered by 406."""
    peer.ask("OPTIONS", "/", accept="image/png").expect(406)
