"""The clients that others build on speak FHIR with a live server: two of PyPI, one of them in both colours, two of npm.

Those of npm run in Node.js; ``tests/npm/fhir.mjs`` makes the calls there.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from fhirclient import client as smart_python
from fhirclient.models.bundle import Bundle
from fhirclient.models.capabilitystatement import CapabilityStatement
from fhirclient.models.diagnosticreport import DiagnosticReport
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient
from fhirclient.models.subscription import Subscription
from fhirclient.server import FHIRNotFoundException
from fhirpy import AsyncFHIRClient, SyncFHIRClient
from fhirpy.base.exceptions import MultipleResourcesFound, OperationOutcome, ResourceNotFound

from tests import servers
from tests.server.fhir.receiver import Receiver, receiving
from tests.servers import Live

SYSTEM = "urn:readingroom:test"
PATIENCE_SECONDS = 20


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A live server whose subscriptions may send to the loopback."""
    settings = {"private_networks": '["127.0.0.0/8"]'}
    with servers.live_server(tmp_path_factory.mktemp("fhir") / "data", settings=settings) as server:
        yield server


@pytest.fixture(scope="module")
def root(live: Live) -> str:
    """Where FHIR is."""
    return f"{live.base}/fhir"


@pytest.fixture
def mark() -> str:
    """A value that nothing else of the server has."""
    return uuid.uuid4().hex


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """A subscriber's endpoint."""
    with receiving() as receiver:
        yield receiver


def patient(mark: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": SYSTEM, "value": mark}],
        "name": [{"family": "Doe", "given": ["Jane"]}],
        **more,
    }


def observation(mark: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "identifier": [{"system": SYSTEM, "value": mark}],
        "status": "final",
        "code": {"coding": [{"system": SYSTEM, "code": mark}]},
        **more,
    }


def transaction(mark: str) -> dict[str, Any]:
    """A patient, and a report that refers to the patient by the address in the Bundle."""
    address = f"urn:uuid:{uuid.uuid4()}"
    report = {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": SYSTEM, "value": mark}],
        "status": "final",
        "code": {"text": "Chest CT"},
        "subject": {"reference": address},
    }
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"fullUrl": address, "resource": patient(mark), "request": {"method": "POST", "url": "Patient"}},
            {"resource": report, "request": {"method": "POST", "url": "DiagnosticReport"}},
        ],
    }


def subscription(mark: str, hook: Receiver) -> dict[str, Any]:
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "A test",
        "criteria": f"Observation?code={SYSTEM}|{mark}",
        "channel": {"type": "rest-hook", "endpoint": f"{hook.url}/told", "payload": "application/fhir+json"},
    }


def eventually[T](ask: Callable[[], T]) -> T:
    """The first answer that is something."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not (found := ask()):
        assert time.monotonic() < give_up, "it did not come"
        time.sleep(0.05)
    return found


def was_told_of(hook: Receiver, mark: str) -> bool:
    return any(mark.encode() in one.body for one in hook.received)


def addresses(response: dict[str, Any]) -> list[str]:
    """Where the entries of a transaction's answer lead, as type and id."""
    found = [entry["response"]["location"].partition("/_history")[0].split("/")[-2:] for entry in response["entry"]]
    return ["/".join(one) for one in found]


# -- fhirclient of PyPI ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pypi(root: str) -> Any:
    """The server as SMART's client for Python has it."""
    client = smart_python.FHIRClient(settings={"app_id": "test", "api_base": root})
    assert client.prepare()
    return client.server


def test_fhirclient_creates_reads_updates_and_deletes(pypi: Any, mark: str) -> None:
    made = Patient(Patient(patient(mark)).create(pypi))
    assert made.meta.versionId == "1"
    read = Patient.read(made.id, pypi)
    assert read.name[0].family == "Doe"
    read.name[0].family = "Roe"
    assert read.update(pypi)["meta"]["versionId"] == "2"
    assert Patient.read(made.id, pypi).name[0].family == "Roe"
    history = Bundle.read_from(f"Patient/{made.id}/_history", pypi)
    assert [entry.resource.name[0].family for entry in history.entry] == ["Roe", "Doe"]
    read.delete(pypi)
    with pytest.raises(requests.HTTPError, match="410"):
        Patient.read(made.id, pypi)
    with pytest.raises(FHIRNotFoundException):
        Patient.read("never", pypi)


def test_fhirclient_searches_page_by_page_and_includes(pypi: Any, mark: str) -> None:
    made = Patient(patient(mark)).create(pypi)
    subject = {"reference": f"Patient/{made['id']}"}
    for number in range(5):
        Observation(observation(mark, subject=subject, valueInteger=number)).create(pypi)
    search = Observation.where({"code": f"{SYSTEM}|{mark}", "_count": "2"})
    pages = list(search.perform_iter(pypi))
    assert [len(page.entry) for page in pages] == [2, 2, 1]
    assert sorted(one.valueInteger for one in search.perform_resources_iter(pypi)) == [0, 1, 2, 3, 4]
    including = Observation.where({"code": f"{SYSTEM}|{mark}"}).include("subject")
    types = [one.resource_type for one in including.perform_resources_iter(pypi)]
    assert types == ["Observation"] * 5 + ["Patient"]
    pointing = Patient.where({"identifier": f"{SYSTEM}|{mark}"}).include("subject", Observation, reverse=True)
    assert len(list(pointing.perform_resources_iter(pypi))) == 6


def test_fhirclient_posts_a_transaction(pypi: Any, mark: str) -> None:
    answer = Bundle(transaction(mark)).create(pypi)
    _patient, report = addresses(answer)
    read = DiagnosticReport.read_from(report, pypi)
    assert read.subject.reference == addresses(answer)[0]
    assert read.subject.resolved(Patient).identifier[0].value == mark


def test_fhirclient_makes_nothing_twice_under_a_condition(pypi: Any, mark: str) -> None:
    """It has no call for that: the condition goes with an entry of a Bundle."""
    condition = {"method": "POST", "url": "Patient", "ifNoneExist": f"identifier={SYSTEM}|{mark}"}
    entries = {"resourceType": "Bundle", "type": "transaction", "entry": [{"request": condition}]}
    entries["entry"][0]["resource"] = patient(mark)  # type: ignore[index]
    answers = [Bundle(entries).create(pypi)["entry"][0]["response"] for _ in range(2)]
    assert [answer["status"][:3] for answer in answers] == ["201", "200"]
    assert answers[0]["location"] == answers[1]["location"]


def test_fhirclient_reads_what_the_server_says_of_itself(pypi: Any) -> None:
    told: CapabilityStatement = pypi.capabilityStatement
    assert told.fhirVersion == "4.0.1"
    assert {"Patient", "Observation", "DiagnosticReport"} <= {one.type for one in told.rest[0].resource}


def test_fhirclient_subscribes(pypi: Any, mark: str, hook: Receiver) -> None:
    made = Subscription(subscription(mark, hook)).create(pypi)
    eventually(lambda: Subscription.read(made["id"], pypi).status == "active")
    Observation(observation(mark)).create(pypi)
    eventually(lambda: was_told_of(hook, mark))
    Subscription.read(made["id"], pypi).delete(pypi)


# -- fhirpy ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fhirpy(root: str) -> SyncFHIRClient:
    return SyncFHIRClient(root)


def test_fhirpy_creates_reads_updates_and_deletes(fhirpy: SyncFHIRClient, mark: str) -> None:
    made = fhirpy.resource(**{"resource_type": "Patient", **patient(mark)})
    made.save()
    assert made["meta"]["versionId"] == "1"
    made["name"][0]["family"] = "Roe"
    made.save()
    read = fhirpy.reference("Patient", made["id"]).to_resource()
    assert (read["name"][0]["family"], read["meta"]["versionId"]) == ("Roe", "2")
    assert read.is_valid()
    assert not fhirpy.resource("Patient", gender="none").is_valid()
    assert read.refresh() == read
    history = fhirpy.execute(f"Patient/{made['id']}/_history", method="get")
    assert [entry["request"]["method"] for entry in history["entry"]] == ["PUT", "POST"]
    assert fhirpy.execute(f"Patient/{made['id']}/_history/1", method="get")["name"][0]["family"] == "Doe"
    made.delete()
    with pytest.raises(ResourceNotFound):
        fhirpy.reference("Patient", made["id"]).to_resource()


def test_fhirpy_searches_page_by_page_and_includes(fhirpy: SyncFHIRClient, mark: str) -> None:
    owner = fhirpy.resource("Patient", **patient(mark))
    owner.save()
    for number in range(5):
        subject = owner.to_reference()
        fhirpy.resource("Observation", **observation(mark, valueInteger=number, subject=subject)).save()
    search = fhirpy.resources("Observation").search(code=f"{SYSTEM}|{mark}")
    assert search.count() == 5
    assert sorted(one["valueInteger"] for one in search.limit(2)) == [0, 1, 2, 3, 4]
    assert len(search.limit(2).fetch()) == 2
    ids = [one["id"] for one in search.sort("-_id").limit(2)]
    assert ids == sorted(ids, reverse=True)
    both = search.include("Observation", "subject").fetch_raw()
    assert [entry["search"]["mode"] for entry in both["entry"]] == ["match"] * 5 + ["include"]
    chained = fhirpy.resources("Observation").search(subject__Patient__identifier=f"{SYSTEM}|{mark}")
    assert len(chained.fetch_all()) == 5
    reverse = fhirpy.resources("Patient").has("Observation", "subject", code=f"{SYSTEM}|{mark}")
    assert [one["id"] for one in reverse.fetch_all()] == [owner["id"]]
    assert fhirpy.resources("Patient").search(identifier=f"{SYSTEM}|{mark}").get()["id"] == owner["id"]


def test_fhirpy_posts_a_transaction(fhirpy: SyncFHIRClient, mark: str) -> None:
    answer = fhirpy.execute("", data=transaction(mark))
    made, report = addresses(answer)
    assert fhirpy.execute(report, method="get")["subject"]["reference"] == made


def test_fhirpy_makes_changes_and_deletes_one_under_a_condition(fhirpy: SyncFHIRClient, mark: str) -> None:
    """It puts the condition into the address of a POST, and no If-None-Exist beside it."""
    search = fhirpy.resources("Patient").search(identifier=f"{SYSTEM}|{mark}")
    first, is_new = search.get_or_create(fhirpy.resource("Patient", **patient(mark)))
    assert is_new
    second, is_new = search.get_or_create(fhirpy.resource("Patient", **patient(mark)))
    assert (second["id"], is_new) == (first["id"], False)
    third, is_new = search.update(fhirpy.resource("Patient", **patient(mark, gender="female")))
    assert (third["id"], third["gender"], is_new) == (first["id"], "female", False)
    _answer, status = search.delete()
    assert status == 204
    assert search.first() is None
    for number in range(2):
        fhirpy.resource("Observation", **observation(mark, valueInteger=number)).save()
    several = fhirpy.resources("Observation").search(code=f"{SYSTEM}|{mark}")
    another = fhirpy.resource("Observation", **observation(mark))
    with pytest.raises(MultipleResourcesFound):
        several.get_or_create(another)


def test_fhirpy_is_told_what_is_wrong(fhirpy: SyncFHIRClient, mark: str) -> None:
    with pytest.raises(OperationOutcome) as caught:
        fhirpy.resource("Observation", **observation(mark, status="perhaps")).save()
    assert caught.value.resource["issue"][0]["expression"] == ["Observation.status"]
    with pytest.raises(OperationOutcome):
        fhirpy.resources("Observation").search(**{"code:sideways": mark}).fetch()


def test_fhirpy_subscribes(fhirpy: SyncFHIRClient, mark: str, hook: Receiver) -> None:
    made = fhirpy.resource("Subscription", **subscription(mark, hook))
    made.save()
    eventually(lambda: fhirpy.reference("Subscription", made["id"]).to_resource()["status"] == "active")
    fhirpy.resource("Observation", **observation(mark)).save()
    eventually(lambda: was_told_of(hook, mark))
    made.delete()


def test_fhirpy_does_the_same_without_waiting(root: str, mark: str, hook: Receiver) -> None:
    asyncio.run(_asynchronously(AsyncFHIRClient(root), mark, hook))


async def _asynchronously(client: AsyncFHIRClient, mark: str, hook: Receiver) -> None:
    asked = client.resource("Subscription", **subscription(mark, hook))
    await asked.save()
    while (await client.reference("Subscription", asked["id"]).to_resource())["status"] != "active":
        await asyncio.sleep(0.05)
    search = client.resources("Patient").search(identifier=f"{SYSTEM}|{mark}")
    makers = [search.get_or_create(client.resource("Patient", **patient(mark))) for _ in range(8)]
    made = await asyncio.gather(*makers)
    assert sorted(is_new for _patient, is_new in made) == [False] * 7 + [True]
    owner = made[0][0]
    subject = owner.to_reference()
    observations = [client.resource("Observation", **observation(mark, subject=subject)) for _ in range(5)]
    await asyncio.gather(*(one.save() for one in observations))
    found = [one["id"] async for one in client.resources("Observation").search(code=f"{SYSTEM}|{mark}").limit(2)]
    assert sorted(found) == sorted(one["id"] for one in observations)
    both = client.resources("Observation").search(code=f"{SYSTEM}|{mark}").include("Observation", "subject")
    assert len((await both.fetch_raw())["entry"]) == 6
    report = addresses(await client.execute("", data=transaction(mark + "0")))[1]
    read = await client.execute(report, method="get")
    assert (await client.execute(read["subject"]["reference"], method="get"))["resourceType"] == "Patient"
    observations[0]["status"] = "amended"
    await observations[0].save()
    history = await client.execute(f"Observation/{observations[0]['id']}/_history", method="get")
    assert [entry["resource"]["status"] for entry in history["entry"]] == ["amended", "final"]
    while not was_told_of(hook, mark):
        await asyncio.sleep(0.05)
    await asked.delete()


# -- npm ---------------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A call of a client ended with an error: its HTTP status, and the OperationOutcome, as far as it came to that."""

    def __init__(self, message: str, status: int | None, told: Any) -> None:
        super().__init__(message)
        self.status = status
        self.told = told


@dataclass(kw_only=True)
class Node:
    """A Node.js with both clients, and the HTTP status of the last call where the client gave it away."""

    process: subprocess.Popen[str]
    status: int | None = None

    def call(self, client: str, name: str, *arguments: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"client": client, "call": name, "args": arguments}) + "\n")
        self.process.stdin.flush()
        said = json.loads(self.process.stdout.readline())
        self.status = said.get("status")
        if "error" in said:
            raise Failed(said["error"], said.get("status"), said.get("told"))
        return said.get("answer")


@pytest.fixture(scope="module")
def node(npm_folder: Path, root: str) -> Iterator[Node]:
    """Both clients, made for the live server."""
    command = ["node", str(npm_folder / "fhir.mjs"), root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["node"]
        yield Node(process=process)
        process.kill()


@pytest.fixture
def kit(node: Node) -> Callable[..., Any]:
    """Makes a call of fhir-kit-client, which takes one object."""
    return lambda call, /, **options: node.call("kit", call, options)


@pytest.fixture
def smart(node: Node) -> Callable[..., Any]:
    """Makes a call of fhirclient of npm."""
    return lambda call, *arguments: node.call("smart", call, *arguments)


def test_fhir_kit_creates_reads_updates_patches_and_deletes(kit: Any, node: Node, mark: str) -> None:
    made = kit("create", resourceType="Patient", body=patient(mark))
    assert (node.status, made["meta"]["versionId"]) == (201, "1")
    one = {"resourceType": "Patient", "id": made["id"]}
    assert kit("read", **one) == made
    if_match = {"headers": {"If-Match": 'W/"1"'}}
    changed = kit("update", **one, body=made | {"gender": "female"}, options=if_match)
    assert changed["meta"]["versionId"] == "2"
    with pytest.raises(Failed) as caught:
        kit("update", **one, body=made, options=if_match)
    assert (caught.value.status, caught.value.told["resourceType"]) == (412, "OperationOutcome")
    patch = [{"op": "replace", "path": "/gender", "value": "other"}]
    assert kit("patch", **one, jsonPatch=patch)["gender"] == "other"
    assert kit("vread", **one, version="1") == made
    versions = kit("history", **one)["entry"]
    assert [entry["request"]["method"] for entry in versions][-1] == "POST"
    assert len(versions) == 3
    assert kit("history", resourceType="Patient")["type"] == "history"
    assert kit("history")["type"] == "history"
    assert kit("operation", name="validate", resourceType="Patient", input=made)["resourceType"] == "OperationOutcome"
    kit("delete", **one)
    assert node.status == 204
    with pytest.raises(Failed) as caught:
        kit("read", **one)
    assert caught.value.status == 410


def test_fhir_kit_searches_page_by_page_and_includes(kit: Any, mark: str) -> None:
    owner = kit("create", resourceType="Patient", body=patient(mark))
    subject = {"reference": f"Patient/{owner['id']}"}
    for number in range(5):
        body = observation(mark, subject=subject, valueInteger=number)
        kit("create", resourceType="Observation", body=body)
    asked = {"code": f"{SYSTEM}|{mark}", "_count": 2, "_include": "Observation:subject"}
    page = kit("search", resourceType="Observation", searchParams=asked)
    pages = [page]
    while page := kit("nextPage", bundle=page):
        pages.append(page)
    modes = [[entry["search"]["mode"] for entry in page["entry"]] for page in pages]
    assert modes == [["match", "match", "include"], ["match", "match", "include"], ["match", "include"]]
    posted = kit("search", resourceType="Observation", searchParams=asked, options={"postSearch": True})
    assert posted["entry"] == pages[0]["entry"]
    assert kit("resolve", reference=subject["reference"])["id"] == owner["id"]


def test_fhir_kit_posts_a_transaction_and_a_batch(kit: Any, mark: str) -> None:
    made, report = addresses(kit("transaction", body=transaction(mark)))
    batch = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [{"request": {"method": "GET", "url": url}} for url in (report, "Patient/never")],
    }
    answer = kit("batch", body=batch)
    assert [entry["response"]["status"][:3] for entry in answer["entry"]] == ["200", "404"]
    assert answer["entry"][0]["resource"]["subject"]["reference"] == made


def test_fhir_kit_makes_nothing_twice_under_a_condition(kit: Any, node: Node, mark: str) -> None:
    condition = {"headers": {"If-None-Exist": f"identifier={SYSTEM}|{mark}"}}
    made = kit("create", resourceType="Patient", body=patient(mark), options=condition)
    assert node.status == 201
    assert kit("create", resourceType="Patient", body=patient(mark), options=condition) == made
    assert node.status == 200
    by = {"identifier": f"{SYSTEM}|{mark}"}
    changed = kit("update", resourceType="Patient", searchParams=by, body=patient(mark, active=True))
    assert (changed["id"], changed["meta"]["versionId"]) == (made["id"], "2")


def test_fhir_kit_reads_what_the_server_says_of_itself(kit: Any) -> None:
    assert kit("capabilityStatement")["fhirVersion"] == "4.0.1"


def test_fhir_kit_subscribes(kit: Any, mark: str, hook: Receiver) -> None:
    made = kit("create", resourceType="Subscription", body=subscription(mark, hook))
    one = {"resourceType": "Subscription", "id": made["id"]}
    eventually(lambda: kit("read", **one)["status"] == "active")
    kit("create", resourceType="Observation", body=observation(mark))
    eventually(lambda: was_told_of(hook, mark))
    kit("delete", **one)


def test_smart_for_javascript_creates_reads_updates_patches_and_deletes(smart: Any, mark: str) -> None:
    made = smart("create", observation(mark))
    address = f"Observation/{made['id']}"
    assert smart("request", address) == made
    changed = smart("update", made | {"status": "amended"})
    assert (changed["status"], changed["meta"]["versionId"]) == ("amended", "2")
    patched = smart("patch", address, [{"op": "add", "path": "/valueString", "value": "seen"}])
    assert patched["valueString"] == "seen"
    history = smart("request", f"{address}/_history")
    assert [entry["resource"]["meta"]["versionId"] for entry in history["entry"]] == ["3", "2", "1"]
    smart("delete", address)
    with pytest.raises(Failed) as caught:
        smart("request", address)
    assert caught.value.status == 410
    assert smart("getFhirVersion") == "4.0.1"
    assert smart("getFhirRelease") == 4


def test_smart_for_javascript_searches_page_by_page_and_includes(smart: Any, mark: str) -> None:
    owner = smart("create", patient(mark))
    subject = {"reference": f"Patient/{owner['id']}"}
    for number in range(5):
        smart("create", observation(mark, subject=subject, valueInteger=number))
    query = f"Observation?code={SYSTEM}|{mark}&_count=2"
    assert [len(page["entry"]) for page in smart("pages", query)] == [2, 2, 1]
    found = smart("request", query, {"pageLimit": 0, "flat": True, "resolveReferences": ["subject"]})
    assert [one["subject"]["identifier"][0]["value"] for one in found] == [mark] * 5
    including = smart("resources", f"{query}&_include=Observation:subject", {"limit": 3})
    assert [one["resourceType"] for one in including] == ["Observation", "Observation", "Patient"]


def test_smart_for_javascript_posts_a_transaction_under_a_condition(smart: Any, mark: str) -> None:
    bundle = transaction(mark)
    bundle["entry"][0]["request"]["ifNoneExist"] = f"identifier={SYSTEM}|{mark}"
    asked = {
        "url": "/",
        "method": "POST",
        "body": json.dumps(bundle),
        "headers": {"content-type": "application/fhir+json"},
    }
    first, second = (smart("request", asked) for _ in range(2))
    assert [entry["response"]["status"][:3] for entry in first["entry"]] == ["201", "201"]
    assert [entry["response"]["status"][:3] for entry in second["entry"]] == ["200", "201"]
    assert addresses(first)[0] == addresses(second)[0]
    assert smart("request", addresses(second)[1])["subject"]["reference"] == addresses(first)[0]


def test_smart_for_javascript_subscribes(smart: Any, mark: str, hook: Receiver) -> None:
    made = smart("create", subscription(mark, hook))
    eventually(lambda: smart("request", f"Subscription/{made['id']}")["status"] == "active")
    smart("create", observation(mark))
    eventually(lambda: was_told_of(hook, mark))
    smart("delete", f"Subscription/{made['id']}")
