"""Prices and statements over HTTP and as commands: who sees which, and what a page and a file say."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from readingroom.clock import SetClock
from server.reports.charges import publish_prices
from server.room import Room
from server.settings import Settings
from storage.prices import PriceList
from tests.commands import Run
from tests.reports import Desk
from tests.servers import REPOSITORY
from tests.smart import register

EXAMPLE = REPOSITORY / "docs" / "examples" / "prices.toml"
LISTED = PriceList.model_validate(
    {
        "currency": "USD",
        "valid_from": "2020-01-01",
        "prices": [
            {"modality": "CT", "amount": "30.00"},
            {"modality": "CT", "facility": "mercy", "amount": "12.00"},
            {"modality": "MR", "subspecialty": "msk", "amount": "45"},
        ],
    }
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"require_auth": True})


def publish(room: Room, *lists: PriceList) -> None:
    publish_prices(room.engine, lists or (LISTED,), room.clock.now())


def amounts(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [price["amount"] for one in answer.json() for price in one["prices"]]


def test_prices_are_for_everybody_but_those_of_one_facility_for_it_alone(room: Room, client: httpx.Client) -> None:
    publish(room)
    assert amounts(client.get("/prices")) == ["30.00", "45.00"]
    for facility, seen in (("mercy", ["30.00", "12.00", "45.00"]), ("other", ["30.00", "45.00"])):
        program = register(room, facility, facilities=frozenset({facility}), facility=facility)
        headers = program.headers(client, "system/ChargeItem.r")
        assert amounts(client.get("/prices", headers=headers)) == seen
    assert client.get("/prices", headers={"Authorization": "Bearer nonsense"}).status_code == 401


def test_a_person_sees_a_page_of_prices_without_scripts(room: Room, client: httpx.Client) -> None:
    assert "No prices are published yet" in client.get("/prices", headers={"accept": "text/html"}).text
    publish(room)
    answer = client.get("/prices", headers={"accept": "text/html,*/*"})
    assert answer.headers["content-type"].startswith("text/html")
    assert "<td>MR<td>msk<td>any<td>any<td class='amount'>45.00" in answer.text
    assert "12.00" not in answer.text
    assert "the most specific counts" in answer.text
    assert "<script" not in answer.text


def test_a_facility_fetches_its_statement_with_a_token_and_no_other(room: Room, client: httpx.Client) -> None:
    publish(room)
    program = register(room, facilities=frozenset({"mercy"}), facility="mercy")
    headers = program.headers(client, "system/ChargeItem.r")
    mine = client.get("/statements/mercy/2026-11", headers=headers)
    assert (mine.status_code, mine.json()["lines"], mine.json()["totals"]) == (200, [], {})
    assert client.get("/statements/local/2026-11", headers=headers).status_code == 404
    assert client.get("/statements/mercy/soon", headers=headers).status_code == 400
    assert client.get("/statements/mercy/2026-11?format=pdf", headers=headers).status_code == 400
    assert client.get("/statements/mercy/2026-11", headers=headers | {"accept": "image/png"}).status_code == 406
    others = program.headers(client, "system/Observation.r")
    assert client.get("/statements/mercy/2026-11", headers=others).status_code == 403
    for path in ("/statements/mercy/2026-11", "/charges"):
        assert client.get(path).status_code == 401
    assert client.get("/charges", headers=headers).status_code == 403


class TestSigned:
    """A report that is signed is charged by itself."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"require_auth": False})

    @pytest.mark.rooms("sqlite", "postgres")
    def test_a_signed_report_is_in_the_statement_and_a_withdrawn_one_credited(
        self, room: Room, client: httpx.Client, clock: SetClock
    ) -> None:
        publish(room)
        desk = Desk(room=room, client=client)
        desk.furnish()
        desk.receive(AccessionNumber="=A1")
        report = desk.signed()
        room.queue.drain()
        month = f"{clock.now():%Y-%m}"
        (line,) = client.get(f"/statements/local/{month}").json()["lines"]
        assert line["report"] == report["id"]
        assert (line["accession"], line["amount"], line["currency"], line["kind"]) == ("=A1", "30.00", "USD", "charge")
        desk.give(report, "withdraw", reader="ada", reason="of another patient")
        room.queue.drain()
        answer = client.get(f"/statements/local/{month}", headers={"accept": "text/csv"})
        assert answer.headers["content-disposition"] == f'attachment; filename="statement-local-{month}.csv"'
        lines = list(csv.DictReader(StringIO(answer.text)))
        assert [(one["kind"], one["accession"], one["amount"]) for one in lines] == [
            ("charge", "'=A1", "30.00"),
            ("credit", "'=A1", "-30.00"),
        ]
        assert client.get(f"/statements/local/{month}").json()["totals"] == {"USD": "0.00"}

    def test_what_has_no_price_is_listed_and_counted(self, room: Room, client: httpx.Client) -> None:
        desk = Desk(room=room, client=client)
        desk.furnish()
        desk.receive()
        report = desk.signed()
        room.queue.drain()
        (one,) = client.get("/charges?state=unpriced").json()
        assert (one["report"], one["asked"]["modalities"]) == (report["id"], ["CT"])
        assert 'readingroom_charges_unpriced{facility="local"} 1.0' in client.get("/metrics").text
        publish(room)
        assert client.get("/charges").json() == []
        assert "readingroom_charges_unpriced{" not in client.get("/metrics").text
        assert client.get("/charges?state=priced").status_code == 400


# -- commands ----------------------------------------------------------------------------------------------------------


def test_prices_are_imported_once_and_shown(run: Run, tmp_path: Path) -> None:
    data: list[Any] = ["--data", tmp_path / "data"]
    facilities = REPOSITORY / "docs" / "examples" / "facilities.toml"
    run("prices", "check", EXAMPLE, *data)
    assert "there is no facility 'mercy'" in run("prices", "import", EXAMPLE, *data, status=1).err
    run("directory", "import", facilities, *data)
    assert "12 prices hold from 2026-01-01 on (version 1)." in run("prices", "import", EXAMPLE, *data).words
    assert "Nothing has changed." in run("prices", "import", EXAMPLE, *data).words
    assert "38.50" in run("prices", "show", *data).words
    assert '"valid_from": "2026-01-01"' in run("prices", "show", "--json", *data).words
    month: list[Any] = ["statement", "mercy", "2026-11", *data]
    assert "mercy, 2026-11 (America/Chicago): 0 lines, nothing in all." in run(*month).words
    assert run(*month, "--csv").out.startswith("date,kind,accession,")
    assert '"unpriced": 0' in run(*month, "--json").words
    assert "There is no facility 'nobody'" in run("statement", "nobody", "2026-11", *data, status=1).err


def test_a_file_that_is_not_right_publishes_nothing(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('currency = "USD"\nvalid_from = 2026-01-01\n[[prices]]\nmodality = "CT"\namount = 40.0\n')
    data: list[Any] = ["--data", tmp_path / "data"]
    for command in ("check", "import"):
        assert (
            f"{wrong}:5: prices.1.amount: write an amount as text" in run("prices", command, wrong, *data, status=1).err
        )
    assert "There are no prices" in run("prices", "show", *data).words
