"""The channel ``mail``: a report encrypted for its recipient (S/MIME, RFC 8551), or a mail that says where one is.

Mail lies in boxes that many open, and passes servers that keep it. So a report goes along only in an envelope that the
recipient's key opens. Without their certificate the mail names nobody, and its link leads to where one has to say who
one is.

The Message-ID is made of the delivery's control id: a mail that comes twice is known for one.

| answer of the mail server | what follows |
|---|---|
| 2yz to the data | it has taken the mail on |
| 4yz | it is sent again, later each time |
| 5yz | it is refused: somebody is called |
| none | it is left alone for a while |
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from email.utils import format_datetime
from pathlib import Path
from smtplib import SMTP, SMTP_SSL, SMTPException, SMTPNotSupportedError, SMTPResponseException
from typing import TYPE_CHECKING
from urllib.parse import unquote

from readingroom.errors import GiveUp, RetryLater, Unreachable
from readingroom.model import Destination, Report
from readingroom.results import Receipt
from server.reports.channels.access import secret, trust
from server.reports.delivery import Sending
from server.reports.documents.sheet import STATUS, one_line
from storage.destinations import MailOptions

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_LONGEST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class MailChannel:
    """Hands reports over to mail servers.

    Attributes
    ----------
    pdf
        Makes the PDF of a report.
    """

    pdf: Callable[[Report], bytes]

    def __call__(self, report: Report, destination: Destination, sending: Sending) -> Receipt:
        """A `server.reports.delivery.Channel`."""
        options = MailOptions.model_validate(destination.options)
        recipient = unquote(destination.address.removeprefix("mailto:"))
        if not recipient.isascii() or not recipient.isprintable() or " " in recipient:
            raise GiveUp(f"The mail address of destination {destination.id} is not of ASCII alone.")
        if options.certificate:
            certificate = _certificate(options.certificate, recipient, sending.at)
            mail = sealed(_letter(report, options, self.pdf(report)), certificate)
        else:
            mail = _letter(report, options, None)
        mail["To"] = recipient
        mail["From"] = options.sender
        mail["Subject"] = f"A radiology report of {_place(report)}"
        mail["Date"] = format_datetime(sending.at)
        mail["Message-ID"] = f"<{sending.control_id}@{options.sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        return _sent(options, recipient, mail)


def sealed(letter: EmailMessage, certificate: Certificate) -> EmailMessage:
    """A letter in an envelope that the key of a certificate opens (RFC 8551 3.3): AES-256, its key under RSA."""
    from cryptography.hazmat.primitives.ciphers.algorithms import AES256
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7EnvelopeBuilder, PKCS7Options

    builder = PKCS7EnvelopeBuilder().set_data(letter.as_bytes()).set_content_encryption_algorithm(AES256)
    envelope = builder.add_recipient(certificate).encrypt(Encoding.DER, [PKCS7Options.Binary])
    mail = EmailMessage(policy=POLICY)
    mail.set_content(
        envelope,
        maintype="application",
        subtype="pkcs7-mime",
        filename="smime.p7m",
        params={"smime-type": "enveloped-data", "name": "smime.p7m"},
    )
    return mail


def _letter(report: Report, options: MailOptions, pdf: bytes | None) -> EmailMessage:
    """What is said; with a PDF the report goes along, and nothing of it is said beside."""
    letter = EmailMessage(policy=POLICY)
    told = [f"A radiology report of {_place(report)} is there: {STATUS[report.status].lower()}."]
    told += ["It is attached."] if pdf is not None else []
    told += [f"It is at {options.link.rstrip('/')}/reports/{report.id}.pdf"] if options.link else []
    letter.set_content("\n\n".join(told) + "\n")
    if pdf is not None:
        letter.add_attachment(pdf, maintype="application", subtype="pdf", filename="report.pdf")
    return letter


def _place(report: Report) -> str:
    return one_line(report.facility_name or report.facility)[:_LONGEST]


def _certificate(file: str, recipient: str, at: datetime) -> Certificate:
    """The certificate of a recipient; raises `GiveUp` where it is not theirs, not of this day, or of no use."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import ExtensionNotFound, RFC822Name, SubjectAlternativeName, load_pem_x509_certificate

    try:
        found = load_pem_x509_certificate(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise GiveUp(f"The certificate of a recipient of mail cannot be read: {type(error).__name__}.") from None
    if not found.not_valid_before_utc <= at <= found.not_valid_after_utc:
        raise GiveUp(
            f"The certificate of a recipient of mail is good from {found.not_valid_before_utc:%Y-%m-%d}"
            f" to {found.not_valid_after_utc:%Y-%m-%d} only."
        )
    if not isinstance(found.public_key(), RSAPublicKey):
        raise GiveUp("The certificate of a recipient of mail is not of RSA, which S/MIME needs here.")
    with suppress(ExtensionNotFound):
        names = found.extensions.get_extension_for_class(SubjectAlternativeName).value.get_values_for_type(RFC822Name)
        if names and recipient.casefold() not in {name.casefold() for name in names}:
            raise GiveUp("The certificate of a recipient of mail is of another address.")
    return found


def _sent(options: MailOptions, recipient: str, mail: EmailMessage) -> Receipt:
    try:
        server = _connected(options)
        try:
            server.ehlo_or_helo_if_needed()
            for code, said in (server.mail(options.sender), server.rcpt(recipient)):
                if code >= 300:
                    return _judged(options, code, said)
            code, said = server.data(mail.as_bytes())
            with suppress(SMTPException, OSError):
                server.quit()  # the mail is taken, or not, whatever is said now
        finally:
            server.close()
    except SMTPNotSupportedError:
        raise GiveUp(f"The mail server {options.server} has no STARTTLS, or no way to sign in.") from None
    except SMTPResponseException as error:
        return _judged(options, error.smtp_code, error.smtp_error)
    except (SMTPException, OSError) as error:
        raise Unreachable(f"The mail server {options.server} did not answer: {type(error).__name__}.") from None
    receipt = _judged(options, code, said)
    return Receipt(accepted=receipt.accepted, code=receipt.code, reference=str(mail["Message-ID"]), text=receipt.text)


def _connected(options: MailOptions) -> SMTP:
    domain = options.sender.rpartition("@")[2]
    context = trust(options.ca)
    if options.security == "tls":
        server: SMTP = SMTP_SSL(options.server, options.port, domain, timeout=options.seconds, context=context)
    else:
        server = SMTP(options.server, options.port, domain, timeout=options.seconds)
    try:
        if options.security == "starttls":
            server.starttls(context=context)
        if options.username:
            server.login(options.username, secret(options.password))
    except BaseException:
        server.close()
        raise
    return server


def _judged(options: MailOptions, code: int, said: bytes | str) -> Receipt:
    """What a reply means (RFC 5321 4.2.1)."""
    if 400 <= code < 500:
        raise RetryLater(f"The mail server {options.server} answered {code}.")
    if code < 0:
        raise Unreachable(f"The mail server {options.server} answered what is none of SMTP.")
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return Receipt(accepted=200 <= code < 300, code=str(code), text=one_line(text)[:_LONGEST])
