"""Templates and macros: from files, from radreport.org's HTML, and into a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from readingroom.errors import Invalid
from server.reports.templates import Template, read_mrrt, read_templates
from server.room import Room
from tests.commands import Run
from tests.reports import Desk

MRRT = b"""<!DOCTYPE html>
<html lang="en"><head><title>CT Brain</title>
<meta name="dcterms.identifier" content="http://www.radreport.org/template/0000004"/>
<script type="text/xml"><template_attributes><status>ACTIVE</status></template_attributes></script></head>
<body onload="alert(1)">
<section id="T1" class="level1" data-section-name="Procedure"><header class="level1">Procedure</header>
<p><input type="text" name="Procedure" value="CT of the brain without contrast"/></p></section>
<section data-section-name="Clinical information"><p><textarea name="c"></textarea></p></section>
<section data-section-name="Findings"><header>Findings</header>
<section data-section-name="Ventricles"><p>Ventricles:
 <select name="v"><option>normal</option><option>enlarged</option></select></p></section>
<p>Midline: <select><option selected="selected">no shift</option><option>shifted</option></select></p>
<p><input type="checkbox" value="Artefacts"/></p>
<script>alert(2)</script></section>
<section data-section-name="Impression"><p></p></section>
</body></html>"""


def test_the_sections_of_an_mrrt_template_are_text_with_blanks() -> None:
    template = read_mrrt(MRRT, "x")
    assert (template.name, template.language) == ("CT Brain", "en")
    assert template.source == "http://www.radreport.org/template/0000004"
    assert [one.name for one in template.sections] == ["technique", "indication", "findings", "impression"]
    texts = {one.name: one.text for one in template.sections}
    assert texts["technique"] == "CT of the brain without contrast"
    assert texts["indication"] == "[ ]"
    assert "Ventricles: [normal|enlarged]" in texts["findings"]
    assert "Midline: no shift" in texts["findings"]
    assert "[ ] Artefacts" in texts["findings"]
    assert not any("alert" in text or "ACTIVE" in text for text in texts.values())


@pytest.mark.parametrize("data", [b"", b"<html></html>", b"\x00\x01", b"<section>", b"<p>" * 5000, b"not html at all"])
def test_what_is_no_template_is_refused(data: bytes) -> None:
    if data == b"<section>":
        assert read_mrrt(data, "x").sections[0].name == "section-1"
        return
    with pytest.raises(Invalid):
        read_mrrt(data, "x")


def test_a_file_has_templates_and_macros(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(
        '[[template]]\nname = "Head"\nmodality = "CT"\n[[template.sections]]\nname = "findings"\ntext = "Normal."\n'
        '[[macro]]\nname = "nl"\ntext = "No abnormality."\n'
    )
    template, macro = read_templates(file)
    assert isinstance(template, Template)
    assert (template.modality, macro.name) == ("CT", "nl")
    file.write_text('[[template]]\nname = "Head"\n')
    with pytest.raises(Invalid, match=r"t\.toml, template\.0\.sections"):
        read_templates(file)


def test_a_report_begins_with_a_template_and_knows_its_sentences_again(room: Room, client: httpx.Client) -> None:
    desk = Desk(room=room, client=client)
    desk.furnish()
    desk.receive()
    given: dict[str, Any] = {"name": "Head", "sections": [{"name": "findings", "text": "The sinuses are clear."}]}
    made = client.post("/templates", json=given)
    assert made.status_code == 201
    assert client.post("/templates", json=given).json()["id"] == made.json()["id"]
    client.post("/templates", json={"name": "nl", "text": "There is nothing else.", "reader": "bob"})
    report = desk.begin(template=made.json()["id"])
    (section,) = report["writing"]["sections"]
    assert [one["origin"] for one in section["passages"]] == ["template"]
    assert section["passages"][0]["source"] == "Head"
    text = "The sinuses are clear. There is nothing else."
    report = desk.write(report, {"sections": [{"name": "findings", "text": text}], "reader": "bob"})
    assert [one["origin"] for one in report["writing"]["sections"][0]["passages"]] == ["template", "macro"]
    report = desk.write(report, {"sections": [{"name": "findings", "text": text}], "reader": "ada"})
    assert [one["origin"] for one in report["writing"]["sections"][0]["passages"]] == ["template", "human"]


def test_templates_are_listed_shown_and_removed(client: httpx.Client) -> None:
    made = client.post("/templates", content=MRRT, headers={"Content-Type": "text/html"}).json()
    client.post("/templates", json={"name": "Mine", "modality": "MR", "text": "x", "reader": "ada"})
    assert [one["name"] for one in client.get("/templates").json()] == ["CT Brain"]
    assert client.get("/templates?kind=macro").json() == []
    assert [one["name"] for one in client.get("/templates?kind=macro&reader=ada&modality=MR").json()] == ["Mine"]
    assert client.get("/templates?kind=macro&reader=ada&modality=CT").json() == []
    assert client.get("/templates?x=1").status_code == 400
    assert client.get(f"/templates/{made['id']}").json()["sections"] == made["sections"]
    assert client.delete(f"/templates/{made['id']}").status_code == 204
    assert client.delete(f"/templates/{made['id']}").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"name": "x"}',
        b'{"name": "", "text": "x"}',
        b'{"name": "x", "text": 1}',
        b'{"name":"x","text":"\\u0000"}',
    ],
)
def test_what_is_no_template_is_refused_over_http(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/templates", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text


def test_the_commands_take_show_and_remove_templates(run: Run, tmp_path: Path) -> None:
    html, toml, data = tmp_path / "brain.html", tmp_path / "m.toml", ("--data", tmp_path / "data")
    html.write_bytes(MRRT)
    toml.write_text('[[macro]]\nname = "nl"\ntext = "No abnormality."\n')
    assert "2 templates and macros" in run("templates", "import", html, toml, *data).words
    shown = run("templates", "list", *data)
    assert "CT Brain" in shown.words
    assert "nl" in shown.words
    id = shown.out.split("CT Brain")[1].splitlines()[0].split()[-1]
    assert "CT Brain is removed" in run("templates", "remove", id, *data).words
    assert "CT Brain" not in run("templates", "list", *data).words
    toml.write_text("[[macro]]\n")
    assert "macro.0.name" in run("templates", "import", toml, *data, status=1).err.replace("\n", " ")


def test_the_command_that_verifies_finds_what_was_changed(room: Room, client: httpx.Client, run: Run) -> None:
    desk = Desk(room=room, client=client)
    desk.furnish()
    desk.receive()
    report = desk.signed()
    data = ("--data", room.settings.data, "--database", room.settings.database or "")
    assert "1 signed versions are as they were signed." in run("reports", "verify", *data).words
    with room.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER report_version_no_update")
        changed = "CAST(replace(CAST(content AS TEXT), 'Normal', 'Abnormal') AS BLOB)"
        connection.exec_driver_sql(f"UPDATE report_version SET content = {changed}")
    told = run("reports", "verify", *data, status=1).words
    assert report["id"] in told
    assert "1 reports are not" in told
    run("reports", "rotate-key", *data[:2])
