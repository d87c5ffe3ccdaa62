"""Capabilities: what the server says of itself is what it has."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from lxml import etree
from pydicom import FileDataset
from starlette.routing import Route
from starlette.testclient import TestClient

from server.app import DICOMWEB, build_room, create_app
from server.codecs import Codecs
from server.dicomweb import capabilities as view
from server.dicomweb.operations import OPERATIONS, Operation
from server.settings import Settings
from server.worklist.steps import schedule_step
from tests import synthetic
from tests.nonpatient import LARGE, MADE
from tests.retrieve import keep
from tests.steps import performed, step
from tests.stow import store
from tests.synthetic import ct_series, part10
from tests.worklist import at_work, attribute, workitem

WADL = {"w": "http://wadl.dev.java.net/2009/02"}
BY_NAME = {one.name: one for one in OPERATIONS}


def wadl_of(client: httpx.Client, path: str = "/dicomweb/") -> etree._Element:
    answer = client.options(path, headers={"Accept": "application/vnd.sun.wadl+xml"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/vnd.sun.wadl+xml")
    return etree.fromstring(answer.content)


def methods(root: etree._Element) -> dict[str, tuple[str, str]]:
    """Method and path of each id."""
    found = {}
    for method in root.iterfind(".//w:method", WADL):
        path = [e.get("path") for e in method.iterancestors(f"{{{WADL['w']}}}resource")]
        found[method.get("id")] = (method.get("name"), "/" + "/".join(reversed(path)))
    return found


def test_the_table_of_operations_is_that_of_the_routes() -> None:
    routes = {
        (method, re.sub(r":path\}", "}", route.path))
        for route in DICOMWEB
        if isinstance(route, Route) and route not in view.routes
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert {(one.method, one.path) for one in OPERATIONS} == routes


def test_the_capabilities_name_every_operation_under_its_resource(client: httpx.Client) -> None:
    root = wadl_of(client)
    assert root.tag == f"{{{WADL['w']}}}application"
    (resources,) = root.findall("w:resources", WADL)
    assert resources.get("base") == "http://127.0.0.1:8780/dicomweb"
    assert methods(root) == {one.name: (one.method, one.path) for one in OPERATIONS}


def test_a_resource_is_described_with_what_is_below_it(client: httpx.Client) -> None:
    found = methods(wadl_of(client, "/dicomweb/studies/1.2.3/series"))
    assert "SearchForStudySeries" in found
    assert "RetrieveFrames" in found
    assert "SearchForStudies" not in found
    assert "RetrieveStudy" not in found
    answer = client.options("/dicomweb/studies", headers={"Accept": "*/*"})
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert client.options("/dicomweb/nothing", headers={"Accept": "*/*"}).status_code == 404


def test_a_method_lists_media_types_parameters_and_statuses(client: httpx.Client) -> None:
    root = wadl_of(client)
    method = root.find(".//w:method[@id='SearchForStudies']", WADL)
    assert method is not None
    accept = method.find("w:request/w:param[@name='Accept']", WADL)
    assert accept is not None
    assert accept.get("default") == "application/dicom+json"
    names = {param.get("name") for param in method.iterfind("w:request/w:param", WADL)}
    assert {"limit", "offset", "includefield", "fuzzymatching", "PatientName", "StudyDate"} <= names
    assert "SeriesDescription" not in names, "that is no key of this level"
    assert {response.get("status") for response in method.iterfind("w:response", WADL)} >= {"200", "204"}


def test_the_description_is_negotiated(client: httpx.Client) -> None:
    def kind(accept: str) -> str:
        answer = client.options("/dicomweb/", headers={"Accept": accept})
        return (
            answer.headers["content-type"].partition(";")[0] if answer.status_code == 200 else str(answer.status_code)
        )

    assert kind("*/*") == "application/vnd.sun.wadl+xml"
    assert kind("application/json") == "application/json"
    assert kind("image/png") == "406"
    assert kind("application/json;q=0.4, application/vnd.sun.wadl+xml") == "application/vnd.sun.wadl+xml"


def test_a_preflight_is_still_a_preflight(client: httpx.Client) -> None:
    headers = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "GET"}
    answer = client.options("/dicomweb/studies", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")


def test_unknown_paths_and_methods_are_not_changed_by_it(client: httpx.Client) -> None:
    assert client.get("/dicomweb/nothing", headers={"Accept": "*/*"}).status_code == 404
    assert client.put("/dicomweb/studies").status_code == 405


def test_json_and_get_give_the_openapi_document(client: httpx.Client) -> None:
    document = client.options("/dicomweb/", headers={"Accept": "application/json"}).json()
    assert document == client.get("/dicomweb/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": "http://127.0.0.1:8780/dicomweb"}]
    named = {one["operationId"] for path in document["paths"].values() for one in path.values()}
    assert named == set(BY_NAME)


def cases() -> list[tuple[str, str]]:
    endless = "text/event-stream"  # this client waits for the end of an answer; see test_changes.py
    named = ((one.name, answer) for one in OPERATIONS if one.method == "GET" for answer in one.answers)
    return [(name, answer) for name, answer in named if answer != endless]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, codecs: Codecs) -> Iterator[tuple[httpx.Client, dict[str, str]]]:
    """An archive that is only read, with a little of everything in it, and what is there."""
    series = ct_series(2)
    first = series[0]
    settings = Settings(data=tmp_path_factory.mktemp("archive"))
    with (
        build_room(settings, codecs=codecs) as room,
        TestClient(create_app(room), base_url="http://127.0.0.1:8780") as client,
    ):
        keep(client, *series)
        non_patient = {category: make() for category, make in MADE.items()}
        for category, made in non_patient.items():
            assert store(client, part10(made), to=f"/dicomweb/{category}").status == 200
        answer = client.post("/dicomweb/workitems", json=workitem(), headers={"Content-Type": "application/dicom+json"})
        uids = {"00081150": first.SOPClassUID, "00081155": first.SOPInstanceUID}
        asked = {"00081199": attribute("SQ", {tag: attribute("UI", str(uid)) for tag, uid in uids.items()})}
        client.post(
            "/dicomweb/commitment-requests/1.2.3", json=asked, headers={"Content-Type": "application/dicom+json"}
        )
        client.post(
            "/dicomweb/modality-performed-procedure-steps/1.2.3",
            json=performed(),
            headers={"Content-Type": "application/dicom+json"},
        )
        with at_work(room.engine) as work:
            schedule_step(work, step())
        yield (
            client,
            {
                "transaction": "1.2.3",
                "performed": "1.2.3",
                "workitem": answer.headers["location"].rpartition("/")[2],
                "study": first.StudyInstanceUID,
                "series": first.SeriesInstanceUID,
                "instance": first.SOPInstanceUID,
                "frames": "1",
                "path": "7FE00010",
                **{category: made.SOPInstanceUID for category, made in non_patient.items()},
            },
        )


@pytest.fixture
def seeded(archive: tuple[httpx.Client, dict[str, str]]) -> tuple[httpx.Client, dict[str, str]]:
    client, uids = archive
    return client, {**uids}


def other_than_image(media_type: str) -> FileDataset | None:
    """What is rendered as that type, where it is no image of one frame."""
    if media_type == "video/mp4":
        return synthetic.cine(2)
    if media_type == "text/xml":
        return synthetic.cda_document()
    if media_type.startswith("text/"):
        return synthetic.text_report()
    return synthetic.pdf_document() if media_type == "application/pdf" else None


def url_of(operation: Operation, uids: dict[str, str]) -> str:
    category = operation.path.split("/")[1]
    if category in MADE:
        uids = uids | {"uid": uids[category], "path": LARGE}
    return "/dicomweb" + operation.path.format(**uids)


def query_of(operation: Operation, uids: dict[str, str]) -> dict[str, str]:
    """The query parameters that are required."""
    named = {"studyUID": uids["study"], "seriesUID": uids["series"], "objectUID": uids["instance"]}
    return {one.name: named.get(one.name) or one.schema["enum"][0] for one in operation.parameters if one.is_required}


def one_image(client: httpx.Client) -> dict[str, str]:
    """A study of one image: of more, none is sent in a single part (PS3.18 Table 10.4.4-1)."""
    (image,) = ct_series(1)
    keep(client, image)
    return {"study": image.StudyInstanceUID, "series": image.SeriesInstanceUID, "instance": image.SOPInstanceUID}


@pytest.mark.parametrize(("name", "media_type"), cases())
def test_every_media_type_that_is_named_is_sent(
    seeded: tuple[httpx.Client, dict[str, str]], name: str, media_type: str
) -> None:
    client, uids = seeded
    if dataset := other_than_image(media_type):
        keep(client, dataset)
        uids |= {
            "study": dataset.StudyInstanceUID,
            "series": dataset.SeriesInstanceUID,
            "instance": dataset.SOPInstanceUID,
        }
    elif name == "RetrieveStudyRendered":
        uids |= one_image(client)
    operation = BY_NAME[name]
    url = url_of(operation, uids)
    answer = client.get(url, params=query_of(operation, uids), headers={"Accept": media_type})
    assert answer.status_code == 200, answer.text
    sent, asked = answer.headers["content-type"], media_type.partition(";")
    assert sent.startswith(asked[0]), sent
    if asked[2]:
        assert asked[2].strip() in sent


@pytest.mark.parametrize("name", [one.name for one in OPERATIONS if one.method == "GET"])
def test_every_parameter_is_taken_with_its_example(seeded: tuple[httpx.Client, dict[str, str]], name: str) -> None:
    client, uids = seeded
    if name == "RetrieveStudyRendered":
        uids |= one_image(client)
    operation = BY_NAME[name]
    required, url = query_of(operation, uids), url_of(operation, uids)
    for parameter in operation.parameters:
        for value in (parameter.example, *parameter.schema.get("enum", ())):
            if value is not None:
                params = required | (value if isinstance(value, dict) else {parameter.name: value})
                answer = client.get(url, params=params, headers={"Accept": operation.answers[0]})
                assert answer.status_code in operation.success, f"{parameter.name}={value}: {answer.text}"
