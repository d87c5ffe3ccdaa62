"""Escalations reach people: ladders, and messages by mail, webhook and gateway to servers that really answer."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from plugins import escalation as plugin
from plugins.escalation.settings import EscalationSettings
from readingroom import Contact, Context, Escalation, Facility, GiveUp, RetryLater, Rung, SetClock, outbound
from readingroom.testing import PluginContract
from tests.plugins.peers import Hook, Post, made_certificate, mail_server, web_service
from tests.servers import free_port

SECRET = "whsec_" + b64encode(bytes(range(32))).decode()
BASE = "https://room.example.org"
DESK = Contact(name="Reading desk", role="desk", channel="smtp", address="desk@mercy.example")
RUNG = Rung(number=2, role="desk", after=timedelta(minutes=5))
CRITICAL = Escalation(
    id="esc-1",
    facility="mercy",
    item="item-1",
    study_uid="1.2.3",
    reason="Blood in the head of DOE^JANE.",
    category=1,
    details={"patient_name": "DOE^JANE", "patient_id": "4711"},
)


@pytest.fixture
def web() -> Iterator[Hook]:
    with web_service() as hook:
        yield hook


@pytest.fixture
def post() -> Iterator[Post]:
    with mail_server() as server:
        yield server


def settings(**values: Any) -> EscalationSettings:
    return EscalationSettings.model_validate(
        {"base_url": f"{BASE}/", "private_networks": ["127.0.0.0/8", "::1/128"], **values}
    )


def context(**values: Any) -> Context:
    return Context(plugin="escalation", settings=settings(**values), clock=SetClock(), delivery="delivery-1")


def notify(contact: Contact, *, about: Escalation = CRITICAL, rung: Rung = RUNG, **values: Any) -> str | None:
    """The reference of a message that was handed over."""
    notified = plugin.notify_contact(about, rung, contact, context(**values))
    return None if notified is None else notified.reference


def by_mail(post: Post, **values: Any) -> dict[str, Any]:
    return {
        "smtp": {"host": "127.0.0.1", "port": post.port, "security": "none", "sender": "room@mercy.example"} | values
    }


def hooked(url: str) -> tuple[Contact, dict[str, Any]]:
    contact = Contact(name="Lead", role="supervisor", channel="webhook", address=f"{url}/hooks/lead?team=1")
    return contact, {"webhooks": [{"origin": url, "secret": SECRET}]}


def gateways(url: str, **values: Any) -> dict[str, Any]:
    return {"gateways": {"voice": {"url": f"{url}/calls", "fields": {"to": "$to", "say": "$text"}} | values}}


CALLED = Contact(name="Emergency department", role="referrer", channel="voice", address="+1 (512) 555-0100")

# -- ladders -----------------------------------------------------------------------------------------------------------


def test_the_first_ladder_that_is_about_an_escalation_holds() -> None:
    call = [{"role": "referrer", "after_minutes": 0}, {"role": "referrer", "after_minutes": 5}]
    ladders = [
        {"categories": [1], "facilities": ["wheels"], "rungs": call[:1]},
        {"categories": [1, 2], "rungs": call},
    ]
    ctx = context(ladders=ladders)
    mercy, site = Facility(id="mercy", name="Mercy"), Facility(id="wheels-1", name="Site", parent="wheels")
    assert plugin.ladder_for(CRITICAL, site, ctx) == (Rung(number=1, role="referrer", after=timedelta(0)),)
    assert plugin.ladder_for(CRITICAL, mercy, ctx) == (
        Rung(number=1, role="referrer", after=timedelta(0)),
        Rung(number=2, role="referrer", after=timedelta(minutes=5)),
    )
    assert plugin.ladder_for(replace(CRITICAL, category=3), mercy, ctx) is None
    assert plugin.ladder_for(replace(CRITICAL, category=None), mercy, ctx) is None


def test_a_ladder_climbs() -> None:
    rungs = [{"role": "desk", "after_minutes": 5}, {"role": "supervisor", "after_minutes": 1}]
    with pytest.raises(ValidationError, match="has to grow"):
        settings(ladders=[{"rungs": rungs}])
    with pytest.raises(ValidationError, match="at least 1 item"):
        settings(ladders=[{"rungs": []}])


# -- mail --------------------------------------------------------------------------------------------------------------


def test_a_mail_asks_for_an_acknowledgement_and_names_nobody(post: Post) -> None:
    reference = notify(DESK, **by_mail(post))
    (mail,) = post.mails
    assert post.recipients == ["desk@mercy.example"]
    assert mail["Message-ID"] == reference
    assert mail["To"] == "Reading desk <desk@mercy.example>"
    assert mail["Subject"] == "Critical result at mercy: please read it within minutes"
    assert mail["Auto-Submitted"] == "auto-generated"
    text = mail.get_content()
    assert f"{BASE}/escalations/esc-1" in text
    assert "writing back in your own words" in text
    for secret in ("DOE", "JANE", "4711", "Blood", "1.2.3"):
        assert secret not in mail.as_string()


def test_a_site_may_say_more_and_each_value_stays_on_its_line(post: Post) -> None:
    about = replace(CRITICAL, reason="Blood.\r\nBcc: everybody@example.org")
    notify(DESK, about=about, show=["reason", "patient_id", "accession_number"], **by_mail(post))
    (mail,) = post.mails
    lines = mail.get_content().splitlines()
    assert "Reason: Blood. Bcc: everybody@example.org" in lines
    assert "Patient id: 4711" in lines
    assert mail["Bcc"] is None
    assert "accession" not in mail.get_content().lower()


def test_a_message_has_the_same_id_on_every_attempt_and_shares_it_with_no_other(post: Post) -> None:
    setup = by_mail(post)
    assert notify(DESK, **setup) == notify(DESK, **setup)
    others = {
        notify(DESK, **setup),
        notify(replace(DESK, address="chief@mercy.example"), **setup),
        notify(DESK, rung=replace(RUNG, number=3), **setup),
        notify(DESK, about=replace(CRITICAL, id="esc-2"), **setup),
    }
    assert len(others) == 4


def test_mail_is_encrypted_and_sent_with_a_password(tmp_path: Path) -> None:
    certificate = made_certificate(tmp_path / "mail.pem")
    with mail_server(certificate) as post:
        tls = {"host": "localhost", "security": "starttls", "ca_file": str(certificate), "username": "room"}
        assert notify(DESK, **by_mail(post, **tls, password="correct"))
        assert post.users == ["room"]
        with pytest.raises(GiveUp, match="535"):
            notify(DESK, **by_mail(post, **tls, password="wrong"))
        with pytest.raises(RetryLater, match="SSLCertVerificationError"):
            notify(DESK, **by_mail(post, **{**tls, "ca_file": None}, password="correct"))
        assert len(post.mails) == 1


def test_no_password_goes_over_a_line_that_is_not_encrypted(post: Post) -> None:
    with pytest.raises(ValidationError, match="starttls or tls alone"):
        settings(**by_mail(post, username="room", password="correct"))
    with pytest.raises(GiveUp, match="STARTTLS"):
        notify(DESK, **by_mail(post, security="starttls", username="room", password="correct"))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"to_recipient": "550 no such user"}, GiveUp),
        ({"to_recipient": "450 mailbox busy"}, RetryLater),
        ({"to_data": "554 refused"}, GiveUp),
        ({"to_data": "451 try again"}, RetryLater),
    ],
)
def test_what_a_mail_server_refuses_for_good_is_given_up(
    post: Post, values: dict[str, str], error: type[Exception]
) -> None:
    for name, value in values.items():
        setattr(post, name, value)
    with pytest.raises(error, match=r"answered \d{3}"):
        notify(DESK, **by_mail(post))
    assert post.mails == []


def test_a_mail_server_that_is_not_there_is_tried_again() -> None:
    with pytest.raises(RetryLater, match="ConnectionRefusedError"):
        notify(DESK, **by_mail(Post(port=free_port())))


@pytest.mark.parametrize("address", ["", "desk", "a@b, c@d", "a@b\r\nBcc: c@d", "<a@b>", "a@b c"])
def test_what_is_no_mail_address_is_given_up(post: Post, address: str) -> None:
    with pytest.raises(GiveUp, match="no mail address"):
        notify(replace(DESK, address=address), **by_mail(post))
    assert post.mails == []


# -- webhooks ----------------------------------------------------------------------------------------------------------


def test_a_webhook_is_signed_as_standard_webhooks_has_it(web: Hook) -> None:
    contact, setup = hooked(web.url)
    reference = notify(contact, **setup)
    ((path, headers, body),) = web.requests
    assert path == "/hooks/lead?team=1"
    assert headers["webhook-id"] == reference
    assert headers["webhook-timestamp"] == str(int(SetClock().now().timestamp()))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = b64decode(SECRET.removeprefix("whsec_"))
    assert headers["webhook-signature"] == "v1," + b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert json.loads(body) == {
        "type": "escalation.rung",
        "data": {
            "escalation": "esc-1",
            "facility": "mercy",
            "category": 1,
            "rung": 2,
            "role": "desk",
            "url": f"{BASE}/escalations/esc-1",
        },
    }
    assert notify(contact, **setup) == reference
    assert web.requests[1][2] == body


@pytest.mark.parametrize(
    "address",
    [
        "{url}.example.org/hooks",
        "{url}1/hooks",
        "http://127.0.0.1/hooks",
        "https://127.0.0.1:8443/hooks",
        "http://localhost:1/hooks",
        "{url}@example.org/hooks",
        "http://example.org#{url}",
        "file:///etc/passwd",
        "{url}/hooks\r\nX-More: 1",
        "{url}\\@example.org/",
        "//127.0.0.1/hooks",
        "",
        "http://[::1/hooks",
        "http://127.0.0.1:99999/hooks",
    ],
)
def test_a_webhook_goes_to_an_origin_of_the_settings_and_to_no_look_alike(web: Hook, address: str) -> None:
    contact, setup = hooked(web.url)
    with pytest.raises(GiveUp):
        notify(replace(contact, address=address.format(url=web.url)), **setup)
    assert web.requests == []


def test_a_redirect_is_not_followed(web: Hook) -> None:
    contact, setup = hooked(web.url)
    web.status, web.headers = 307, {"Location": f"{web.url}/elsewhere"}
    with pytest.raises(GiveUp, match="307, and redirects are not followed"):
        notify(contact, **setup)
    assert [path for path, _, _ in web.requests] == ["/hooks/lead?team=1"]


def test_a_name_that_leads_to_a_private_address_is_not_called(web: Hook) -> None:
    contact, setup = hooked(web.url)
    with pytest.raises(GiveUp, match="neither of the public Internet"):
        notify(contact, **setup, private_networks=[])
    with pytest.raises(GiveUp, match="neither of the public Internet"):
        notify(contact, **setup, private_networks=["10.0.0.0/8"])
    assert web.requests == []


def test_a_name_is_resolved_once(web: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at is what is called, whatever the name leads to a moment later."""
    contact, setup = hooked(web.url.replace("127.0.0.1", "hooks.example.org"))
    port = int(web.url.rpartition(":")[2])
    answers = iter(["127.0.0.1"])
    resolve = outbound.socket.getaddrinfo

    def found(host: str, *arguments: Any, **values: Any) -> Any:
        return resolve(next(answers) if host == "hooks.example.org" else host, port, *arguments[1:], **values)

    monkeypatch.setattr(outbound.socket, "getaddrinfo", found)
    assert notify(contact, **setup)
    assert web.requests[0][1]["host"] == f"hooks.example.org:{port}"


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.100.100.200", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::169.254.169.254", False),
        ("2002:a9fe:a9fe::1", False),
        ("172.16.5.5", True),
        ("::ffff:172.16.5.5", True),
    ],
)
def test_an_address_is_public_or_of_a_network_of_the_settings(address: str, allowed: bool) -> None:
    assert outbound.is_allowed(ip_address(address), [ip_network("172.16.0.0/12")]) is allowed


def test_what_is_not_encrypted_stays_in_networks_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("93.184.215.14", 80))])
    contact, setup = hooked("http://hooks.example.org")
    with pytest.raises(GiveUp, match="over https alone"):
        notify(contact, **setup)


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, GiveUp), (401, GiveUp), (404, GiveUp), (410, GiveUp)]
    + [(status, RetryLater) for status in (408, 409, 425, 429, 500, 502, 503)],
)
def test_what_is_refused_for_good_is_given_up(web: Hook, status: int, error: type[Exception]) -> None:
    contact, setup = hooked(web.url)
    web.status = status
    with pytest.raises(error, match=str(status)):
        notify(contact, **setup)


@pytest.mark.parametrize(("told", "seconds"), [("120", 120), ("999999", 3600), ("soon", 30), ("", 30)])
def test_a_service_says_when_to_come_again_within_reason(web: Hook, told: str, seconds: int) -> None:
    contact, setup = hooked(web.url)
    web.status, web.headers = 503, {"Retry-After": told}
    with pytest.raises(RetryLater) as caught:
        notify(contact, **setup)
    assert caught.value.after == timedelta(seconds=seconds)


def test_a_service_that_is_not_there_is_tried_again() -> None:
    contact, setup = hooked(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RetryLater, match="ConnectionRefusedError"):
        notify(contact, **setup)


def test_what_was_taken_counts_as_sent_though_the_answer_breaks_off(web: Hook) -> None:
    contact, setup = hooked(web.url)
    web.headers = {"Content-Length": "9999"}
    assert notify(contact, **setup) == web.requests[0][1]["webhook-id"]


@pytest.mark.parametrize("secret", ["", "secret", "whsec_", "whsec_????", "whsec_" + b64encode(b"short").decode()])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    with pytest.raises(ValidationError, match="secret"):
        settings(webhooks=[{"origin": BASE, "secret": secret}])


@pytest.mark.parametrize("origin", [f"{BASE}/path", "room.example.org", "ftp://room.example.org", "https://a:b@c"])
def test_an_origin_is_a_scheme_a_host_and_a_port(origin: str) -> None:
    with pytest.raises(ValidationError, match="origin"):
        settings(webhooks=[{"origin": origin, "secret": SECRET}])


# -- gateways ----------------------------------------------------------------------------------------------------------


def test_a_gateway_is_asked_by_the_template_of_the_settings(web: Hook) -> None:
    web.body = b'{"sid": "CA1"}'
    values = {"fields": {"call": {"to": ["$to"], "say": "$text"}}, "headers": {"Authorization": "Bearer t"}}
    assert notify(CALLED, **gateways(web.url, **values, reference="sid")) == "CA1"
    ((path, headers, body),) = web.requests
    assert path == "/calls"
    assert headers["authorization"] == "Bearer t"
    say = f"Critical result at mercy, to be read within minutes. Acknowledge it at {BASE}/escalations/esc-1"
    assert json.loads(body) == {"call": {"to": ["+15125550100"], "say": say}}


def test_a_gateway_may_want_a_form(web: Hook) -> None:
    values = {"encoding": "form", "fields": {"To": "$to", "Body": "$text & $$"}, "text": "Result at $facility"}
    notify(CALLED, **gateways(web.url, **values))
    assert parse_qs(web.requests[0][2].decode()) == {"To": ["+15125550100"], "Body": ["Result at mercy & $"]}


def test_a_gateway_knows_a_second_attempt_by_its_key(web: Hook) -> None:
    reference = notify(CALLED, **gateways(web.url))
    assert notify(CALLED, **gateways(web.url)) == reference
    assert {headers["idempotency-key"] for _, headers, _ in web.requests} == {reference}


@pytest.mark.parametrize("answer", [b"", b"no JSON", b"[]", b'{"sid": {}}', b'{"other": 1}'])
def test_an_answer_without_a_reference_is_an_answer_all_the_same(web: Hook, answer: bytes) -> None:
    web.body = answer
    reference = notify(CALLED, **gateways(web.url, reference="sid"))
    assert reference == web.requests[0][1]["idempotency-key"]


@pytest.mark.parametrize("address", ["", "desk", "+1-512-CALL", "12", "+1;ext=5", "1" * 16])
def test_what_is_no_telephone_number_is_given_up(web: Hook, address: str) -> None:
    with pytest.raises(GiveUp, match="no telephone number"):
        notify(replace(CALLED, address=address), **gateways(web.url))
    assert web.requests == []


def test_a_template_with_a_name_that_nobody_fills_in_is_refused() -> None:
    for values in ({"fields": {"to": ["$too"]}}, {"text": "$patient_name"}, {"fields": {"to": "$"}}):
        with pytest.raises(ValidationError, match="placeholder"):
            settings(**gateways(BASE, **values))
    with pytest.raises(ValidationError, match="fields of a form"):
        settings(**gateways(BASE, encoding="form", fields={"to": ["$to"]}))
    with pytest.raises(ValidationError, match="channel of its own"):
        settings(gateways={"smtp": {"url": BASE, "fields": {}}})


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["smtp", "webhook", "voice", "fax"])
def test_a_channel_that_is_not_set_up_is_left_to_other_plugins(channel: str) -> None:
    assert notify(replace(DESK, channel=channel)) is None


def test_no_secret_is_shown_with_the_settings() -> None:
    shown = repr(
        settings(
            smtp={"host": "h", "sender": "a@b", "username": "u", "password": "hidden-1"},
            webhooks=[{"origin": BASE, "secret": SECRET}],
            **gateways(BASE, headers={"Authorization": "hidden-2"}),
        )
    )
    assert "hidden" not in shown
    assert SECRET not in shown


class TestContract(PluginContract):
    plugin = "escalation"
    settings: ClassVar = {"base_url": BASE, "ladders": [{"rungs": [{"role": "desk", "after_minutes": 0}]}]}
