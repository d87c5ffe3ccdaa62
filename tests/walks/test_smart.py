"""A program is registered, gets tokens by its key, stores a study, finds it over FHIR, and takes all with it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import FileDataset

from readingroom.clock import SystemClock
from storage.catalog.clients import Client, add_client
from storage.catalog.engine import begin_write, database_url, open_engine
from tests import multipart
from tests.servers import Live, environment, live_server
from tests.smart import Program, public_jwks
from tests.synthetic import part10

SCOPES = "system/*.cruds patient/*.rs"
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A live server where everybody needs a token."""
    data = tmp_path_factory.mktemp("smart") / "data"
    with live_server(data, settings={"require_auth": "true"}) as server:
        yield server


@pytest.fixture
def http(strict: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=strict.base, timeout=30) as client:
        yield client


def registered(strict: Live, folder: Path) -> Program:
    """A program that an operator registers at the command line, beside the running server."""
    program = Program(id="ehr", clock=SystemClock(), base=strict.base)
    keys = folder / "ehr.jwks.json"
    keys.write_text(public_jwks(program.key))
    command = [sys.executable, "-m", "server.cli", "clients", "add", "ehr", "--scopes", SCOPES, "--jwks", str(keys)]
    command += ["--facility", "local", "--data", str(strict.data)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    return program


def for_patient(strict: Live, id: str, patient: str) -> Program:
    """A program that sees what is about one patient."""
    program = Program(id=id, clock=SystemClock(), base=strict.base)
    client = Client(id=id, name=id, scopes=tuple(SCOPES.split()), jwks=public_jwks(program.key), patient=patient)
    engine = open_engine(database_url(None, strict.data))
    with begin_write(engine) as connection:
        add_client(connection, client, SystemClock().now())
    engine.dispose()
    return program


def until_done(http: httpx.Client, url: str, headers: dict[str, str]) -> dict[str, Any]:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while (answer := http.get(url, headers=headers)).status_code == 202:
        assert time.monotonic() < give_up, answer.headers["x-progress"]
        time.sleep(0.1)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_program_gets_in_by_its_key_and_takes_all_that_is_its_own(
    strict: Live, http: httpx.Client, tmp_path: Path, chest_ct: list[FileDataset]
) -> None:
    program = registered(strict, tmp_path)
    assert http.get("/fhir/ImagingStudy").status_code == 401
    told = http.get("/fhir/.well-known/smart-configuration").json()
    assert told["token_endpoint"] == f"{strict.base}/auth/token"
    assertion = program.assertion()
    assert program.ask(http, "system/*.rs", assertion).status_code == 200
    assert program.ask(http, "system/*.rs", assertion).status_code == 401

    headers = program.headers(http, "system/*.cruds")
    body = multipart.encode([part10(dataset) for dataset in chest_ct])
    kind = {"Content-Type": multipart.content_type()}
    assert http.post("/dicomweb/studies", content=body, headers=headers | kind).status_code == 200
    [entry] = http.get("/fhir/ImagingStudy", headers=headers).json()["entry"]
    study = entry["resource"]
    assert study["identifier"][0]["value"] == f"urn:oid:{chest_ct[0].StudyInstanceUID}"

    asked = http.get("/fhir/Patient/$export", headers=headers | {"prefer": "respond-async"})
    assert asked.status_code == 202
    made = until_done(http, asked.headers["content-location"], headers)
    assert made["requiresAccessToken"] is True
    found = {}
    for file in made["output"]:
        assert http.get(file["url"]).status_code == 401
        for line in http.get(file["url"], headers=headers).text.splitlines():
            one = json.loads(line)
            found[one["resourceType"]] = one["id"]
    assert found["ImagingStudy"] == study["id"]
    assert f"Patient/{found['Patient']}" == study["subject"]["reference"]

    own = for_patient(strict, "own", found["Patient"])
    other = for_patient(strict, "other", "somebody-else")
    for one, count in ((own, 1), (other, 0)):
        seen = http.get("/fhir/ImagingStudy?_total=accurate", headers=one.headers(http, "patient/*.rs")).json()
        assert seen["total"] == count
        status = http.get(f"/fhir/ImagingStudy/{study['id']}", headers=one.headers(http, "patient/*.rs")).status_code
        assert status == (200 if count else 404)
    unlike = http.get(asked.headers["content-location"], headers=own.headers(http, "system/*.cruds"))
    assert unlike.status_code == 404
