"""Tokens: who gets one, what is no token, and what a token opens."""

from __future__ import annotations

import hmac
import json
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from pydicom import FileDataset
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from readingroom.clock import SetClock
from readingroom.errors import Conflict, Invalid, NotAuthenticated, NotFound
from server.app import create_app
from server.room import Room
from server.settings import Settings
from server.tokens import BadClient, Tokens, configured_clients, read_jwks, renew_signing_key
from storage.catalog.clients import find_client, list_signing_keys, remove_client
from storage.catalog.engine import begin_write
from tests import multipart
from tests.commands import Run
from tests.smart import BASE, BY_JWT, KINDS, Program, new_key, public_jwks, register
from tests.synthetic import part10

pytestmark = pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")

STUDIES = "/dicomweb/studies"
SCOPE = "system/ImagingStudy.rs"


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


def status(client: httpx.Client, token: str, path: str = STUDIES) -> int:
    """How a request with that token is answered; a search that finds nothing is as good as one that does."""
    found = client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code
    return 200 if found == 204 else found


def asking(program: Program, assertion: str, tokens: Tokens) -> str:
    """Whether a program gets a token, or how it is refused."""
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": BY_JWT,
        "client_assertion": assertion,
        "scope": SCOPE,
    }
    try:
        return str(tokens.issue(form, url=f"{BASE}/auth/token", root=BASE)["token_type"])
    except BadClient as error:
        return error.error


# -- getting one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", KINDS)
def test_an_assertion_of_each_algorithm_gets_a_token(room: Room, client: httpx.Client, alg: str) -> None:
    answer = register(room, alg=alg).ask(client, SCOPE)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert {name: told[name] for name in ("token_type", "expires_in", "scope")} == {
        "token_type": "bearer",
        "expires_in": 300,
        "scope": SCOPE,
    }
    assert status(client, told["access_token"]) == 200


@pytest.mark.rooms("sqlite", "postgres")
def test_a_token_opens_what_its_client_may_see(room: Room, client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    body = multipart.encode([part10(dataset) for dataset in chest_ct])
    sent = {"content": body, "headers": {"Content-Type": multipart.content_type()}}
    assert client.post("/dicomweb/f/north/studies", **sent).status_code == 200
    program = register(room, "north", facilities=frozenset(("north",)))
    other = register(room, "south", facilities=frozenset(("south",)))
    assert len(client.get(STUDIES, headers=program.headers(client, SCOPE)).json()) == 1
    assert client.get(STUDIES, headers=other.headers(client, SCOPE)).status_code == 204
    url = f"{STUDIES}/{chest_ct[0].StudyInstanceUID}"
    assert client.get(url, headers=program.headers(client, SCOPE)).status_code == 200
    foreign = client.get(url, headers=other.headers(client, SCOPE))
    assert foreign.status_code == 404
    assert foreign.text == f"There is no study {chest_ct[0].StudyInstanceUID}.\n"


def test_a_client_stores_for_its_own_facility(room: Room, client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    program = register(room, facilities=frozenset(("north",)))
    headers = program.headers(client, "system/ImagingStudy.crs") | {"Content-Type": multipart.content_type()}
    body = multipart.encode([part10(chest_ct[0])])
    assert client.post("/dicomweb/f/south/studies", content=body, headers=headers).status_code == 403
    assert client.post(STUDIES, content=body, headers=headers).status_code == 200
    assert len(client.get("/dicomweb/f/north/studies").json()) == 1


def test_what_is_unknown_or_not_allowed_is_not_granted(room: Room, client: httpx.Client) -> None:
    program = register(room, scopes="system/Patient.rs system/ImagingStudy.rs")
    answer = program.ask(client, "openid fhirUser system/*.cruds system/Unknown system/Task.rs")
    assert set(answer.json()["scope"].split()) == {"system/Patient.rs", "system/ImagingStudy.rs"}
    assert error_of(program.ask(client, "openid system/Task.rs")) == (400, "invalid_scope")
    assert error_of(program.ask(client, "")) == (400, "invalid_scope")


def test_a_token_without_the_scope_is_refused(room: Room, client: httpx.Client) -> None:
    token = register(room).token(client, "system/Patient.rs")
    answer = client.get(STUDIES, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403
    assert "system/ImagingStudy.rs" in answer.text


def test_a_token_opens_no_page_that_is_for_people(room: Room, client: httpx.Client) -> None:
    token = register(room).token(client, "system/*.cruds")
    assert status(client, token, "/worklist") == 403
    assert client.get("/worklist").status_code == 200


def test_a_client_without_facilities_sees_nothing(room: Room, client: httpx.Client) -> None:
    token = register(room, facilities=frozenset()).token(client, "system/*.rs")
    assert status(client, token) == 403


# -- assertions --------------------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres")
def test_of_many_that_bring_one_assertion_one_gets_a_token(room: Room, client: httpx.Client) -> None:
    program = register(room)
    text = program.assertion()
    others = Tokens(room.engine, room.clock, {})  # another worker

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(partial(asking, program, text), [room.tokens, others] * 4))
    assert sorted(got) == ["bearer"] + ["invalid_client"] * 7
    assert error_of(program.ask(client, SCOPE, text)) == (401, "invalid_client")


BAD: list[tuple[str, dict[str, Any]]] = [
    ("another type", {"header": {"typ": "at+jwt"}}),
    ("no type", {"header": {"typ": None}}),
    ("an unknown kid", {"header": {"kid": "other"}}),
    ("no kid", {"header": {"kid": None}}),
    ("a key set elsewhere", {"header": {"jku": "https://evil.example/jwks.json"}}),
    ("another issuer", {"iss": "other"}),
    ("no issuer", {"iss": None}),
    ("another subject", {"sub": "other"}),
    ("no subject", {"sub": None}),
    ("another audience", {"aud": "https://other.example/auth/token"}),
    ("no audience", {"aud": None}),
    ("no end", {"exp": None}),
    ("an end as text", {"exp": "1767269100"}),
    ("an end that is true", {"exp": True}),
    ("an end without end", {"exp": float("inf")}),
    ("an end that is no number", {"exp": float("nan")}),
    ("an end of another age", {"exp": 10**18}),
    ("no jti", {"jti": None}),
    ("an empty jti", {"jti": ""}),
    ("a jti that is a number", {"jti": 7}),
    ("an endless jti", {"jti": "x" * 600}),
]


@pytest.mark.parametrize("changes", [changes for _, changes in BAD], ids=[name for name, _ in BAD])
def test_an_assertion_that_is_not_right_is_refused(room: Room, client: httpx.Client, changes: dict[str, Any]) -> None:
    program = register(room)
    answer = program.ask(client, SCOPE, program.assertion(**changes))
    assert error_of(answer) == (401, "invalid_client")


def test_an_assertion_has_five_minutes(room: Room, client: httpx.Client, clock: SetClock) -> None:
    program = register(room)
    now = int(clock.now().timestamp())
    for seconds in (-1, 0, 600):
        answer = program.ask(client, SCOPE, program.assertion(exp=now + seconds))
        assert error_of(answer) == (401, "invalid_client")
    assert error_of(program.ask(client, SCOPE, program.assertion(nbf=now + 120))) == (401, "invalid_client")
    assert program.ask(client, SCOPE, program.assertion(exp=now + 300, iat=now, nbf=now)).status_code == 200


def test_an_assertion_is_signed_by_the_clients_own_key(room: Room, client: httpx.Client) -> None:
    program = register(room)
    register(room, "other")
    stranger = new_key()
    assert error_of(program.ask(client, SCOPE, program.assertion(key=stranger))) == (401, "invalid_client")
    embedded = program.assertion({"jwk": stranger.as_dict(private=False)}, key=stranger)
    assert error_of(program.ask(client, SCOPE, embedded)) == (401, "invalid_client")
    posing = program.assertion(iss="other", sub="other")
    assert error_of(program.ask(client, SCOPE, posing)) == (401, "invalid_client")
    assert error_of(program.ask(client, SCOPE, client_id="other")) == (401, "invalid_client")


def test_neither_no_signature_nor_a_shared_secret_will_do(room: Room, client: httpx.Client) -> None:
    program = register(room, alg="RS384")
    head, claims, _ = program.assertion().split(".")
    nothing = urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT", "kid": program.key.kid}).encode())
    for forged in (f"{nothing.decode().rstrip('=')}.{claims}.", f"{head}.{claims}.", f"{head}.{claims}.AAAA"):
        assert error_of(program.ask(client, SCOPE, forged)) == (401, "invalid_client")
    shared = urlsafe_b64encode(json.dumps({"alg": "HS256", "typ": "JWT", "kid": program.key.kid}).encode()).rstrip(b"=")
    message = shared + b"." + claims.encode()
    secret = hmac.digest(program.key.as_pem(private=False), message, "sha256")
    posing = (message + b"." + urlsafe_b64encode(secret).rstrip(b"=")).decode()
    assert error_of(program.ask(client, SCOPE, posing)) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "authorization_code"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "unsupported_grant_type"),
        ({"client_assertion_type": "basic"}, "invalid_request"),
    ],
)
def test_other_grants_are_refused(room: Room, client: httpx.Client, form: dict[str, str], error: str) -> None:
    assert error_of(register(room).ask(client, SCOPE, **form)) == (400, error)


def test_what_is_no_form_is_refused(room: Room, client: httpx.Client) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded"}
    for body, headers in (
        (b"{}", {"content-type": "application/json"}),
        (b"\xff\xfe", kind),
        (b"a=1&" * 50, kind),
        (b"scope=x&scope=y", kind),
        (b"x" * 100_000, kind),
    ):
        assert error_of(client.post("/auth/token", content=body, headers=headers)) == (400, "invalid_request")
    assert client.get("/auth/token").status_code == 405


class Published:
    """A web server at which a program publishes its keys."""

    def __init__(self) -> None:
        self.jwks = "{}"
        self.asked = 0
        published = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                published.asked += 1
                body = published.jwks.encode()
                self.send_response(302 if published.jwks == "elsewhere" else 200)
                self.send_header("Location", "/other")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks.json"


@pytest.fixture
def published() -> Iterator[Published]:
    site = Published()
    thread = threading.Thread(target=site.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()


def test_a_client_that_publishes_its_keys_may_change_them(room: Room, clock: SetClock, published: Published) -> None:
    program = register(room, jwks_uri=published.url)
    published.jwks = public_jwks(program.key)
    tokens = Tokens(room.engine, clock, {}, [ip_network("127.0.0.0/8")])
    assert [asking(program, program.assertion(), tokens) for _ in range(3)] == ["bearer"] * 3
    assert published.asked == 1
    program.key = new_key()
    assert asking(program, program.assertion(), tokens) == "invalid_client"
    published.jwks = public_jwks(program.key)
    assert asking(program, program.assertion(), tokens) == "invalid_client"
    assert published.asked == 1  # an unknown kid does not make us ask again at once
    clock.advance(timedelta(seconds=30))
    assert asking(program, program.assertion(), tokens) == "bearer"
    assert published.asked == 2


@pytest.mark.parametrize("told", ["", "{}", "elsewhere", "x" * 100_000])
def test_a_published_key_set_that_will_not_do_lets_nobody_in(
    room: Room, clock: SetClock, published: Published, told: str
) -> None:
    program = register(room, jwks_uri=published.url)
    published.jwks = told
    tokens = Tokens(room.engine, clock, {}, [ip_network("127.0.0.0/8")])
    assert [asking(program, program.assertion(), tokens) for _ in range(3)] == ["invalid_client"] * 3
    assert published.asked == 1


def test_keys_are_not_asked_for_where_no_client_should_be(room: Room, clock: SetClock, published: Published) -> None:
    program = register(room, jwks_uri=published.url)
    published.jwks = public_jwks(program.key)
    assert asking(program, program.assertion(), Tokens(room.engine, clock, {})) == "invalid_client"
    assert published.asked == 0


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_ends_with_its_five_minutes(room: Room, client: httpx.Client, clock: SetClock) -> None:
    token = register(room).token(client, SCOPE)
    clock.advance(timedelta(seconds=299))
    assert status(client, token) == 200
    clock.advance(timedelta(seconds=1))
    assert status(client, token) == 401


def test_a_token_ends_within_two_seconds_of_its_client(room: Room, client: httpx.Client, clock: SetClock) -> None:
    token = register(room).token(client, SCOPE)
    assert status(client, token) == 200
    with begin_write(room.engine) as connection:
        remove_client(connection, "ehr")
    clock.advance(timedelta(seconds=2))
    answer = client.get(STUDIES, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_what_is_taken_from_a_client_is_taken_from_its_tokens(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    program = register(room, scopes="system/*.cruds")
    token = program.token(client, SCOPE)
    with begin_write(room.engine) as connection:
        remove_client(connection, "ehr")
    register(room, scopes="system/Patient.rs")
    clock.advance(timedelta(seconds=2))
    assert status(client, token) == 403


def forged(room: Room, token: str, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token as this server would sign it, but for what is given."""
    with room.engine.connect() as connection:
        key = ECKey.import_key(json.loads(list_signing_keys(connection)[0].jwk))
    told = jwt.decode(token, key, algorithms=["ES256"])
    heads = {name: value for name, value in {**told.header, **(header or {})}.items() if value is not None}
    body = {name: value for name, value in {**told.claims, **claims}.items() if value is not None}
    return jwt.encode(heads, body, key, algorithms=["ES256"], default_type=None)


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ({"typ": "JWT"}, {}),
        ({"typ": None}, {}),
        ({"kid": "other"}, {}),
        ({"kid": None}, {}),
        ({"x5u": "https://evil.example/"}, {}),
        ({}, {"iss": "https://other.example"}),
        ({}, {"aud": "https://other.example"}),
        ({}, {"aud": None}),
        ({}, {"exp": None}),
        ({}, {"exp": "9999999999"}),
        ({}, {"sub": "other"}),
        ({}, {"sub": None}),
    ],
)
def test_a_token_is_good_as_it_was_given(
    room: Room, client: httpx.Client, header: dict[str, Any], claims: dict[str, Any]
) -> None:
    token = register(room).token(client, SCOPE)
    assert status(client, forged(room, token)) == 200
    assert status(client, forged(room, token, header, **claims)) == 401


def test_a_token_gives_no_more_than_the_registration(room: Room, client: httpx.Client) -> None:
    token = register(room, scopes="system/Patient.rs").token(client, "system/Patient.rs")
    assert status(client, forged(room, token, scope="system/*.cruds")) == 403


def test_what_is_no_token_is_never_looked_past(room: Room, client: httpx.Client) -> None:
    program = register(room)
    token = program.token(client, SCOPE)
    head, claims, signature = token.split(".")
    flipped = signature[:-5] + ("A" if signature[-5] != "A" else "B") + signature[-4:]
    deep = urlsafe_b64encode(b"[" * 5000).decode()
    for text in (
        "",
        "x",
        "a.b.c",
        f"{head}.{claims}.",
        f"{head}.{claims}.{flipped}",
        f"{token}=",
        f"{deep}.{claims}.{signature}",
        "\xe9",
        program.assertion(),
    ):
        answer = client.get(STUDIES, headers={"Authorization": f"Bearer {text}".encode("latin-1")})
        assert answer.status_code == 401, text
    both = [("Authorization", f"Bearer {token}"), ("Authorization", "Bearer x")]
    assert client.get(STUDIES, headers=both).status_code == 401


def test_a_giant_token_is_refused_before_it_is_read(room: Room) -> None:
    with room.engine.connect() as connection, pytest.raises(NotAuthenticated, match="8192 characters"):
        room.tokens.check(connection, "x" * (24 << 20), root=BASE)


def test_tokens_of_the_key_before_stay_good_and_its_keys_are_shown(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    program = register(room)
    token = program.token(client, SCOPE)
    clock.advance(timedelta(seconds=1))
    with begin_write(room.engine) as connection:
        renew_signing_key(connection, clock.now())
    newer = program.token(client, SCOPE)
    shown = client.get("/auth/jwks").json()["keys"]
    assert len(shown) == 2
    assert not any("d" in key for key in shown)
    for text in (token, newer):
        kid = json.loads(_decoded(text.split(".")[0]))["kid"]
        [key] = [ECKey.import_key(one) for one in shown if one["kid"] == kid]
        assert jwt.decode(text, key, algorithms=["ES256"]).claims["sub"] == "ehr"
        assert status(client, text) == 200
    clock.advance(timedelta(hours=2))
    with begin_write(room.engine) as connection:
        renew_signing_key(connection, clock.now())
        assert len(list_signing_keys(connection)) == 2
    assert status(client, token) == 401


def test_the_key_is_renewed_by_itself(room: Room, client: httpx.Client, clock: SetClock) -> None:
    program = register(room)
    kids = []
    for days in (0, 89, 2):
        clock.advance(timedelta(days=days))
        kids.append(json.loads(_decoded(program.token(client, SCOPE).split(".")[0]))["kid"])
    assert kids[0] == kids[1] != kids[2]


def _decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


# -- where everybody needs one -----------------------------------------------------------------------------------------


@pytest.fixture
def strict(room: Room) -> Any:
    """Speaks with the same room where everybody needs a token."""
    from dataclasses import replace

    settings = room.settings.model_copy(update={"require_auth": True})
    with TestClient(create_app(replace(room, settings=settings)), base_url=BASE) as client:
        yield client


def test_without_a_token_only_what_is_for_everybody_is_there(room: Room, strict: httpx.Client) -> None:
    for path in (STUDIES, "/worklist", "/", "/ohif/", "/dicomweb/workitems", "/fhir/Patient", "/healthz/../worklist"):
        answer = strict.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert strict.get(STUDIES, headers={"Authorization": "Basic eDp5"}).status_code == 401
    for path in ("/healthz", "/readyz", "/metrics", "/auth/jwks", "/.well-known/smart-configuration"):
        assert strict.get(path).status_code == 200, path
    assert strict.get(STUDIES, headers=register(room).headers(strict, SCOPE)).status_code == 204


def test_a_websocket_needs_a_token_too(room: Room, strict: Any) -> None:
    url = "ws://127.0.0.1:8780/dicomweb/ws/subscribers/ME"
    program = register(room)
    for headers, says in (({}, "token"), (program.headers(strict, SCOPE), "system/Task.rs")):
        with pytest.raises(WebSocketDisconnect) as refused, strict.websocket_connect(url, headers=headers):
            pass
        assert (refused.value.code, says in refused.value.reason) == (1008, True)
    with strict.websocket_connect(url, headers=program.headers(strict, "system/Task.rs")):
        pass


def test_a_socket_that_is_bound_by_a_token_of_its_own_may_be_opened(strict: Any) -> None:
    with strict.websocket_connect("ws://127.0.0.1:8780/fhir/ws") as socket:
        socket.send_text("bind s1")
        assert socket.receive_text() == "unknown s1"
        socket.send_text("bind-with-token nonsense")
        assert socket.receive_text() == "unknown token"


def test_smart_clients_find_the_way(client: httpx.Client) -> None:
    for path in ("", "/fhir", "/fhir/f/north"):
        told = client.get(f"{path}/.well-known/smart-configuration").json()
        assert told["token_endpoint"] == f"{BASE}/auth/token"
        assert {"RS384", "ES384"} <= set(told["token_endpoint_auth_signing_alg_values_supported"])
        assert "client-confidential-asymmetric" in told["capabilities"]
        assert client.get(told["jwks_uri"].removeprefix(BASE)).status_code == 200


# -- clients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "key set"),
        ("[]", "key set"),
        ('{"keys": {}}', "key set"),
        ('{"keys": []}', "no public key"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "1"}]}', "no public key"),
        ('{"keys": [{"kty": "RSA", "kid": "1"}]}', "cannot be read"),
        ("[" * 100_000, "key set"),
    ],
)
def test_a_key_set_that_will_not_do_is_refused(text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        read_jwks(text)


def test_neither_private_nor_small_nor_nameless_keys_are_registered() -> None:
    key = new_key()
    with pytest.raises(Invalid, match="private"):
        read_jwks(json.dumps({"keys": [key.as_dict(private=True)]}))
    with pytest.raises(Invalid, match="2048"):
        read_jwks(public_jwks(RSAKey.generate_key(1024, {"kid": "1"})))
    nameless = {name: value for name, value in key.as_dict(private=False).items() if name != "kid"}
    with pytest.raises(Invalid, match="kid"):
        read_jwks(json.dumps({"keys": [nameless]}))


def test_clients_are_registered_listed_and_removed_by_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(public_jwks(new_key()))
    data = ("--data", tmp_path / "data")
    keys = ("--jwks", tmp_path / "jwks.json")
    scopes = ("--scopes", "system/Patient.rs system/ImagingStudy.rs")
    printed = run("clients", "add", "ehr", *scopes, *keys, "--facility", "local", *data)
    assert "require_auth" in printed.words
    assert "already" in run("clients", "add", "ehr", *scopes, *keys, "--all-facilities", *data, status=1).err
    for wrong in (
        ("clients", "add", "a b", *scopes, *keys, "--all-facilities"),
        ("clients", "add", "two", *scopes, *keys),
        ("clients", "add", "two", *scopes, *keys, "--facility", "nowhere"),
        ("clients", "add", "two", *scopes, *keys, "--all-facilities", "--may", "fly"),
        ("clients", "add", "two", *scopes, "--all-facilities"),
        ("clients", "add", "two", *scopes, "--jwks-uri", "file:///etc/passwd", "--all-facilities"),
        ("clients", "add", "two", *scopes, *keys, "--jwks-uri", "https://ehr.example/jwks.json", "--all-facilities"),
        ("clients", "add", "two", "--scopes", "openid", *keys, "--all-facilities"),
        ("clients", "add", "two", *scopes, "--jwks", tmp_path / "none.json", "--all-facilities"),
    ):
        run(*wrong, *data, status=1)
    [listed] = json.loads(run("clients", "list", "--json", *data).out)
    assert (listed["id"], listed["facilities"]) == ("ehr", ["local"])
    assert "ehr" in run("clients", "list", *data).out
    run("clients", "new-key", *data)
    run("clients", "new-key", "--forget", *data)
    run("clients", "remove", "ehr", *data)
    assert "no client" in run("clients", "remove", "ehr", *data, status=1).err


def test_a_client_of_the_settings_gets_tokens(room: Room, clock: SetClock, tmp_path: Path) -> None:
    program = Program(id="ehr", clock=clock)
    (tmp_path / "jwks.json").write_text(public_jwks(program.key))
    table = {"jwks": tmp_path / "jwks.json", "scopes": "system/*.rs", "facilities": ["north"]}
    settings = Settings(data=tmp_path, clients={"ehr": table})  # type: ignore[dict-item]
    tokens = Tokens(room.engine, clock, configured_clients(settings))
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": BY_JWT,
        "client_assertion": program.assertion(),
        "scope": "system/*.cruds",
    }
    told = tokens.issue(form, url=f"{BASE}/auth/token", root=BASE)
    assert told["scope"] == "system/*.rs"
    with room.engine.connect() as connection:
        actor = tokens.check(connection, told["access_token"], root=BASE)
    assert actor.scope.facilities == frozenset(("north",))
    assert actor.facility == "north"
    assert tokens.known(told["access_token"], root=BASE) == actor
    assert tokens.known(told["access_token"], root="https://other.example") is None


def test_a_client_whose_key_set_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    table = {"jwks": tmp_path / "none.json", "scopes": "system/*.rs", "facilities": "*"}
    settings = Settings(data=tmp_path, clients={"ehr": table})  # type: ignore[dict-item]
    with pytest.raises(Invalid, match="client ehr"):
        configured_clients(settings)


def test_a_client_comes_back_as_it_was_registered(room: Room) -> None:
    register(room, "one", "system/*.rs", facilities=frozenset(("north",)), may=frozenset(("remove",)), patient="p1")
    with begin_write(room.engine) as connection:
        found = find_client(connection, "one")
        assert found is not None
        assert (found.facilities, found.may, found.patient) == (frozenset(("north",)), frozenset(("remove",)), "p1")
        assert find_client(connection, "two") is None
        with pytest.raises(NotFound):
            remove_client(connection, "two")
    with pytest.raises(Conflict):
        register(room, "one")
