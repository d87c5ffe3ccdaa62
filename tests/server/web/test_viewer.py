"""What the browser gets below /ohif: files, headers, and nothing else of the disk."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from readingroom.errors import NotFound
from server.web.viewer import viewer_routes

SCRIPT = "0123456789abcdef.bundle.fedcba9876543210.js"


def viewer(static_dir: Path) -> TestClient:
    return TestClient(Starlette(routes=[Mount("/ohif", routes=viewer_routes(static_dir))]), base_url="http://viewer")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A small installed viewer, with a secret beside it."""
    site = tmp_path / "ohif"
    (site / "assets").mkdir(parents=True)
    (site / "index.html").write_text('<script>window.PUBLIC_URL="/ohif/"</script><script src="/ohif/app.js"></script>')
    (site / SCRIPT).write_text("decode()")
    (site / f"{SCRIPT}.gz").write_bytes(gzip.compress(b"decode()"))
    (site / "decoder.wasm").write_bytes(b"\0asm")
    (site / "assets" / "logo.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("the key")
    return site


@pytest.fixture
def client(site: Path) -> Iterator[httpx.Client]:
    with viewer(site) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("index.html", "text/html; charset=utf-8"),
        (SCRIPT, "text/javascript; charset=utf-8"),
        ("decoder.wasm", "application/wasm"),
        ("assets/logo.svg", "image/svg+xml"),
    ],
)
def test_every_file_goes_out_under_its_media_type(client: httpx.Client, site: Path, name: str, media_type: str) -> None:
    answer = client.get(f"/ohif/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.content == (site / name).read_bytes()


@pytest.mark.parametrize("page", ["", "viewer?StudyInstanceUIDs=1.2.3", "segmentation", "callback"])
def test_a_page_of_the_viewer_is_its_index(client: httpx.Client, site: Path, page: str) -> None:
    answer = client.get(f"/ohif/{page}")
    assert answer.content == (site / "index.html").read_bytes()
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    ["%2e%2e/secret.txt", "..%2fsecret.txt", "assets/%2e%2e/%2e%2e/secret.txt", "/etc/hosts.txt", "none.js"],
)
def test_no_path_leads_out_of_the_viewer(client: httpx.Client, path: str) -> None:
    with pytest.raises(NotFound):
        client.get(f"/ohif/{path}")


def test_a_client_that_takes_gzip_gets_the_compressed_file(client: httpx.Client) -> None:
    packed = client.get(f"/ohif/{SCRIPT}", headers={"Accept-Encoding": "br, gzip;q=0.8"})
    plain = client.get(f"/ohif/{SCRIPT}", headers={"Accept-Encoding": "gzip;q=0, br"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content == b"decode()"
    assert packed.headers["etag"] != plain.headers["etag"]
    assert "Accept-Encoding" in packed.headers["vary"]


def test_a_file_that_the_browser_holds_is_not_sent_again(client: httpx.Client) -> None:
    etag = client.get("/ohif/index.html").headers["etag"]
    held = client.get("/ohif/index.html", headers={"If-None-Match": f'"other", W/{etag}'})
    assert (held.status_code, held.content) == (304, b"")
    assert client.get("/ohif/index.html", headers={"If-None-Match": '"other"'}).status_code == 200


def test_only_a_file_named_by_its_hash_may_be_kept_for_ever(client: httpx.Client) -> None:
    assert "immutable" in client.get(f"/ohif/{SCRIPT}").headers["cache-control"]
    assert client.get("/ohif/decoder.wasm").headers["cache-control"] == "no-cache"


def test_the_policy_lets_only_the_inline_script_of_the_page_run(client: httpx.Client) -> None:
    digest = base64.b64encode(hashlib.sha256(b'window.PUBLIC_URL="/ohif/"').digest()).decode()
    policy = client.get("/ohif/").headers["content-security-policy"]
    assert f"script-src 'self' 'wasm-unsafe-eval' 'sha256-{digest}';" in policy
    assert "'unsafe-eval'" not in policy
    assert "default-src 'none'" in policy


def test_only_a_worker_may_compile_code(client: httpx.Client) -> None:
    policies = {
        kind: client.get(f"/ohif/{SCRIPT}", headers={"Sec-Fetch-Dest": kind}).headers["content-security-policy"]
        for kind in ("worker", "script", "document")
    }
    assert [kind for kind, policy in policies.items() if "'unsafe-eval'" in policy] == ["worker"]


def test_every_answer_is_isolated_from_other_origins(client: httpx.Client) -> None:
    for path in ("/ohif/", f"/ohif/{SCRIPT}"):
        headers = client.get(path).headers
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_viewer_only_answers_reads(client: httpx.Client, site: Path) -> None:
    assert client.post("/ohif/").status_code == 405
    head = client.head("/ohif/index.html")
    assert (head.content, head.headers["content-length"]) == (b"", str((site / "index.html").stat().st_size))


def test_without_the_viewer_every_page_says_how_to_install_it(tmp_path: Path) -> None:
    with viewer(tmp_path / "nothing") as client:
        answer = client.get("/ohif/viewer?StudyInstanceUIDs=1.2.3")
    assert answer.status_code == 503
    assert "make install" in answer.text
