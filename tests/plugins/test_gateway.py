"""Reports go by fax, and a text says that one is there: to gateways that really answer."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from plugins import gateway as plugin
from plugins.gateway.settings import GatewaySettings
from readingroom import Context, Destination, GiveUp, Receipt, RetryLater, SetClock
from readingroom.errors import Unreachable
from readingroom.testing import PluginContract
from tests.plugins.peers import Hook, web_service
from tests.reports import a_report
from tests.servers import free_port

BASE = "https://room.example.org"
PDF = b64encode(b"%PDF-1.7").decode()
REPORT = a_report()
FAX: dict[str, Any] = {
    "fields": {"to": "$to", "files": [{"name": "report.pdf", "content": "$document"}], "retries": 3},
    "headers": {"Authorization": "Bearer abc"},
    "reference": "fax.id",
}
SMS = {"fields": {"To": "$to", "Body": "$text"}, "encoding": "form"}


@pytest.fixture
def web() -> Iterator[Hook]:
    with web_service() as hook:
        hook.body = b'{"fax": {"id": 42}}'
        yield hook


def settings(url: str, **gateways: Any) -> GatewaySettings:
    told = {name: {"url": f"{url}/{name}", **one} for name, one in gateways.items()}
    return GatewaySettings.model_validate(
        {"base_url": f"{BASE}/", "gateways": told, "private_networks": ["127.0.0.0/8"]}
    )


def deliver(url: str, channel: str = "fax", *, pdf: str | None = PDF, **gateways: Any) -> Receipt | None:
    ctx = Context(
        plugin="gateway",
        settings=settings(url, **(gateways or {"fax": FAX, "sms": SMS})),
        clock=SetClock(),
        delivery="ab" * 10,
    )
    where = Destination(id="ed", facility="local", channel=channel, address="+15125550100")
    return plugin.deliver_report(REPORT, where, pdf, ctx)


def test_a_fax_has_the_report_and_a_key_by_which_a_second_is_known(web: Hook) -> None:
    assert deliver(web.url) == Receipt(accepted=True, code="200", reference="42")
    deliver(web.url)
    (path, headers, body), (_, again, _) = web.requests
    assert path == "/fax"
    assert headers["authorization"] == "Bearer abc"
    assert headers["idempotency-key"] == again["idempotency-key"] == "ab" * 10
    document = {"name": "report.pdf", "content": PDF}
    assert json.loads(body) == {"to": "+15125550100", "files": [document], "retries": 3}


def test_a_text_says_that_a_report_is_there_and_nothing_of_it(web: Hook) -> None:
    receipt = deliver(web.url, "sms")
    assert receipt == Receipt(accepted=True, code="200", reference="ab" * 10)
    ((_, _, body),) = web.requests
    form = parse_qs(body.decode())
    link = f"{BASE}/reports/{REPORT.id}.pdf"
    assert form == {"To": ["+15125550100"], "Body": [f"A radiology report of Local Hospital is ready: {link}"]}


def test_what_is_of_another_channel_is_left_to_others(web: Hook) -> None:
    assert deliver(web.url, "pigeon") is None
    assert web.requests == []


@pytest.mark.parametrize("status", [500, 502, 429, 409])
def test_a_gateway_that_may_take_it_later_is_asked_again(web: Hook, status: int) -> None:
    web.status = status
    with pytest.raises(RetryLater):
        deliver(web.url)


def test_a_gateway_that_refuses_it_says_so_in_the_receipt(web: Hook) -> None:
    web.status = 422
    assert deliver(web.url) == Receipt(accepted=False, code="422")
    web.status, web.headers = 302, {"Location": web.url}
    with pytest.raises(GiveUp, match="redirects"):
        deliver(web.url)


@pytest.mark.parametrize("body", [b"", b"<html>Log in</html>", b'{"fax": {}}', b'{"fax": []}', b'{"fax": {"id": ""}}'])
def test_an_answer_that_does_not_say_what_was_taken_is_no_success(web: Hook, body: bytes) -> None:
    web.body = body
    with pytest.raises(GiveUp, match=r"fax\.id"):
        deliver(web.url)


def test_a_gateway_that_is_away_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        deliver(f"http://127.0.0.1:{free_port()}")


def test_a_fax_that_cannot_be_set_is_given_up_and_a_text_is_not(web: Hook) -> None:
    with pytest.raises(GiveUp, match="fonts"):
        deliver(web.url, pdf=None)
    assert deliver(web.url, "sms", pdf=None) is not None


@pytest.mark.parametrize(
    ("gateways", "match"),
    [
        ({"sms": {**SMS, "fields": {"Body": "$document"}}}, "lights up"),
        ({"fax": {**FAX, "fields": {"to": "$patient_name"}}}, "placeholder"),
        ({"fax": {**FAX, "fields": {"to": "$"}}}, "placeholder"),
        ({"fax": {**FAX, "text": "$document"}}, "placeholder"),
        ({"fax": {**FAX, "encoding": "form"}}, "texts"),
        ({"fax": {**FAX, "url": "ftp://fax.example.org"}}, "https"),
        ({}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(gateways: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        settings("https://fax.example.org", **gateways)


class TestContract(PluginContract):
    """What every plugin has to keep."""

    plugin = "gateway"
    settings: ClassVar = {"base_url": BASE, "gateways": {"sms": {"url": "https://sms.example.org", **SMS}}}
