"""The checks, a module for each area; importing this package declares them all."""

from conformance.dicomweb.areas import (
    badinput,
    bulkdata,
    capabilities,
    deletion,
    frames,
    jsonchecks,
    matching,
    negotiation,
    nonpatient,
    rendering,
    retrieval,
    search,
    storing,
    transport,
    uri,
    xmlchecks,
)

__all__ = [
    "badinput",
    "bulkdata",
    "capabilities",
    "deletion",
    "frames",
    "jsonchecks",
    "matching",
    "negotiation",
    "nonpatient",
    "rendering",
    "retrieval",
    "search",
    "storing",
    "transport",
    "uri",
    "xmlchecks",
]
