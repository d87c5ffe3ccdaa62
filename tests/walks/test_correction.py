"""The wrong patient was chosen at the modality. It is put right, and everybody sees it, here and after a disaster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests import multipart
from tests.retrieve import AS_STORED_PARTS, JSON, OHIF_FRAMES, read, url_of
from tests.servers import environment, live_server, program
from tests.stow import AS_STORED, store
from tests.synthetic import ct_series, part10

REASON = {"reason": "Chosen from the worklist by mistake"}
CHANGES = {
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Right^Rita"}]},
    "00100020": {"vr": "LO", "Value": ["R-4711"]},
    "00100030": {"vr": "DA", "Value": ["19800229"]},
}


def seen(client: httpx.Client, study: str) -> dict[str, Any]:
    """What a viewer asks when it lists and opens a study, and what it then shows of whose it is."""
    listed = {"limit": "101", "offset": "0", "fuzzymatching": "true", "includefield": "00081030,00080060"}
    found: dict[str, Any] = {}
    for name in ("*right*", "*phantom*"):
        answer = client.get("/dicomweb/studies", params=listed | {"PatientName": name}, headers=JSON)
        found[name] = [row["00100020"]["Value"][0] for row in answer.json()] if answer.status_code == 200 else []
    (series,) = client.get(f"{study}/series", params={"includefield": "00080021"}, headers=JSON).json()
    series_url = f"{study}/series/{series['0020000E']['Value'][0]}"
    instances = client.get(f"{series_url}/metadata", headers=JSON).json()
    found["metadata"] = {
        (one["00100010"]["Value"][0]["Alphabetic"], one["00100020"]["Value"][0], one["00100030"]["Value"][0])
        for one in instances
    }
    files = [read(body) for _, body in multipart.parts_of(client.get(study, headers=AS_STORED_PARTS))]
    found["files"] = {(str(one.PatientName), one.PatientID, one.PatientBirthDate) for one in files}
    found["reasons"] = [
        [item.ReasonForTheAttributeModification for item in one.get("OriginalAttributesSequence", [])] for one in files
    ]
    frames = [
        client.get(f"{series_url}/instances/{one['00080018']['Value'][0]}/frames/1", headers=OHIF_FRAMES)
        for one in instances
    ]
    found["frames"] = [body for frame in frames for _, body in multipart.parts_of(frame)]
    return found


def test_the_wrong_patient_is_put_right(tmp_path: Path) -> None:
    slices = ct_series(4)
    received = [part10(one) for one in slices]
    study = url_of(slices[0], level="study")
    data, again = tmp_path / "data", f"sqlite:///{tmp_path / 'again.sqlite'}"
    wrong, right = ("Phantom^Ada", "RR-0001", "19700101"), ("Right^Rita", "R-4711", "19800229")

    with live_server(data) as server, httpx.Client(base_url=server.base) as client:
        store(client, *received[:3])
        before = seen(client, study)
        assert (before["*right*"], before["*phantom*"]) == ([], ["RR-0001"])
        assert before["metadata"] == before["files"] == {wrong}
        held = client.get(f"{study}/history").headers["etag"]
        headers = {"Content-Type": "application/dicom+json", "If-Match": held}
        answer = client.patch(study, json=CHANGES, params=REASON, headers=headers)
        assert answer.status_code == 200
        assert client.patch(study, json=CHANGES, params=REASON, headers=headers).status_code == 412

        store(client, received[3])  # the last slice comes late, and still under the wrong name
        after = seen(client, study)
        assert (after["*right*"], after["*phantom*"]) == (["R-4711"], [])
        assert after["metadata"] == after["files"] == {right}
        assert after["reasons"] == [["CORRECT"]] * 4
        assert after["frames"][:3] == before["frames"]

        for dataset, file in zip(slices, received, strict=True):
            original = client.get(url_of(dataset), headers=AS_STORED, params={"original": "true"})
            assert original.content == file
        (entry,) = client.get(f"{study}/history").json()
        assert entry["reason"] == REASON["reason"]
        assert entry["changed"]["00100010"] == {
            "before": {"vr": "PN", "Value": [{"Alphabetic": "Phantom^Ada"}]},
            "after": CHANGES["00100010"],
        }
        (change,) = client.get("/dicomweb/changes", params={"type": "InstancesCorrected"}).json()
        assert len(change["instances"]) == 3

        assert client.delete(study).status_code == 204
        assert client.patch(study, json=CHANGES, params=REASON, headers=headers).status_code == 410
        assert client.post(f"{study}/restore").status_code == 204
        assert seen(client, study) == after

    command = [program("readingroom"), "reindex", "--data", str(data), "--database", again]
    subprocess.run(command, check=True, capture_output=True, env=environment(), timeout=60)
    with live_server(data, settings={"database": again}) as server, httpx.Client(base_url=server.base) as client:
        assert seen(client, study) == after
        assert client.get(f"{study}/history").json()[0]["changed"] == entry["changed"]
        assert client.post(f"{study}/history", params={"version": "0", **REASON}).status_code == 200
        back = seen(client, study)
        assert back["files"] == {wrong}
        assert back["reasons"] == [[]] * 4
        assert [row["version"] for row in client.get(f"{study}/history").json()] == [1, 2]
        answer = client.get(url_of(slices[0]), headers=AS_STORED)
        assert answer.content == received[0]
