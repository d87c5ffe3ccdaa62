"""The edge: hosts, the root of our own URLs, facilities, cross-origin requests, errors and metrics."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from readingroom.errors import (
    Ambiguous,
    Duplicate,
    Gone,
    Invalid,
    NotAcceptable,
    NotFound,
    OutOfSpace,
    ReadingRoomError,
    Refused,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from server.auth import caller_of
from server.edge import Edge, Metrics, on_accident, on_error
from server.settings import Settings

ERRORS: dict[str, ReadingRoomError] = {
    "invalid": Invalid("no"),
    "not-found": NotFound(),
    "gone": Gone(),
    "ambiguous": Ambiguous(),
    "duplicate": Duplicate(),
    "not-acceptable": NotAcceptable(),
    "unsupported": UnsupportedMedia(),
    "too-large": TooLarge(),
    "refused": Refused(),
    "unavailable": Unavailable(retry_after=7),
    "full": OutOfSpace(),
}


async def show_caller(request: Request) -> Response:
    caller = caller_of(request)
    facilities = caller.scope.facilities
    return JSONResponse(
        {
            "root": caller.service_root,
            "facility": caller.facility,
            "sees": sorted(facilities) if facilities is not None else None,
        }
    )


async def fail(request: Request) -> Response:
    raise ERRORS[request.path_params["name"]]


async def crash(_request: Request) -> Response:
    raise RuntimeError("patient Phantom^Ada")


def client_of(*, peer: str = "127.0.0.1", **settings: object) -> httpx.Client:
    app = Starlette(
        routes=[
            Route("/dicomweb/caller", show_caller),
            Route("/dicomweb/f/{facility}/caller", show_caller),
            Route("/fail/{name}", fail),
            Route("/crash", crash),
        ],
        exception_handlers={ReadingRoomError: on_error, Exception: on_accident},
    )
    edge = Edge(app, settings=Settings(**settings), metrics=Metrics())  # type: ignore[arg-type]
    return TestClient(edge, base_url="http://127.0.0.1:8780", client=(peer, 1), raise_server_exceptions=False)


def root_of(client: httpx.Client, **headers: str) -> str:
    answer = client.get("/dicomweb/caller", headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["root"])


def test_urls_begin_as_the_request_did() -> None:
    assert root_of(client_of()) == "http://127.0.0.1:8780/dicomweb"
    assert root_of(client_of(), host="localhost:8080") == "http://localhost:8080/dicomweb"
    assert root_of(client_of(), host="[::1]:8080") == "http://[::1]:8080/dicomweb"


def test_a_host_without_port_gets_the_port_that_was_reached() -> None:
    """PyPI dicomweb-client sends Host so."""
    assert root_of(client_of(), host="127.0.0.1") == "http://127.0.0.1:8780/dicomweb"


def test_the_configured_public_address_wins() -> None:
    client = client_of(public_url="https://images.example.org/")
    assert root_of(client) == "https://images.example.org/dicomweb"
    assert root_of(client, host="images.example.org") == "https://images.example.org/dicomweb"


def test_a_host_that_is_not_configured_is_refused_and_not_echoed() -> None:
    answer = client_of().get("/dicomweb/caller", headers={"host": "evil.example"})
    assert answer.status_code == 400
    assert "evil" not in answer.text
    assert client_of().get("/dicomweb/caller", headers={"host": "127.0.0.1:8x"}).status_code == 400


def test_only_a_trusted_proxy_is_believed() -> None:
    forwarded = "proto=https;host=images.example.org"
    trusting = client_of(trusted_proxies=["127.0.0.1"], allowed_hosts=["images.example.org", "127.0.0.1"])
    assert root_of(trusting, forwarded=forwarded) == "https://images.example.org/dicomweb"
    assert (
        root_of(trusting, x_forwarded_proto="https", x_forwarded_host="images.example.org:8443")
        == "https://images.example.org:8443/dicomweb"
    )
    assert root_of(client_of(), forwarded=forwarded) == "http://127.0.0.1:8780/dicomweb"
    stranger = client_of(peer="127.0.0.9", trusted_proxies=["127.0.0.1"])
    assert root_of(stranger, forwarded=forwarded) == "http://127.0.0.1:8780/dicomweb"


def test_a_facility_in_the_path_narrows_what_is_seen_and_owns_what_is_stored() -> None:
    answer = client_of().get("/dicomweb/f/north/caller").json()
    assert answer == {"root": "http://127.0.0.1:8780/dicomweb/f/north", "facility": "north", "sees": ["north"]}
    assert client_of().get("/dicomweb/caller").json()["sees"] is None


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("invalid", 400),
        ("not-found", 404),
        ("gone", 410),
        ("ambiguous", 409),
        ("duplicate", 409),
        ("not-acceptable", 406),
        ("unsupported", 415),
        ("too-large", 413),
        ("refused", 403),
        ("unavailable", 503),
        ("full", 507),
    ],
)
def test_meaning_becomes_a_status_and_one_line(name: str, status: int) -> None:
    answer = client_of().get(f"/fail/{name}")
    assert answer.status_code == status
    assert answer.text == ERRORS[name].message + "\n"
    assert answer.headers.get("retry-after") == ("7" if name == "unavailable" else None)


def test_an_accident_tells_the_client_nothing() -> None:
    answer = client_of().get("/crash")
    assert answer.status_code == 500
    assert "Phantom" not in answer.text


def test_a_preflight_is_answered_for_configured_origins_only() -> None:
    asks = {"origin": "https://viewer.example", "access-control-request-method": "GET"}
    allowed = client_of(cors_origins=["https://viewer.example"]).options("/dicomweb/studies", headers=asks)
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://viewer.example"
    assert int(allowed.headers["access-control-max-age"]) >= 3600
    refused = client_of().options("/dicomweb/studies", headers=asks)
    assert "access-control-allow-origin" not in refused.headers


def test_an_answer_and_an_error_to_a_configured_origin_may_be_read() -> None:
    client = client_of(cors_origins=["https://viewer.example"])
    for path in ("/dicomweb/caller", "/fail/not-found"):
        answer = client.get(path, headers={"origin": "https://viewer.example"})
        assert answer.headers["access-control-allow-origin"] == "https://viewer.example"
        assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in client.get("/dicomweb/caller", headers={"origin": "https://x"}).headers


def test_methods_that_nobody_knows_are_counted_as_one() -> None:
    metrics = Metrics()
    client = TestClient(Edge(Starlette(), settings=Settings(), metrics=metrics), base_url="http://127.0.0.1:8780")
    for method in ("GET", "BREW", "BREW2", "WHEN"):
        assert client.request(method, "/nothing").status_code == 404
    counted = generate_latest(metrics.registry).decode()
    assert 'method="GET",route="other",status="404"} 1.0' in counted
    assert 'method="other",route="other",status="404"} 3.0' in counted
    assert "BREW" not in counted
