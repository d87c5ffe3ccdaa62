"""The channel ``smtp``: mail by a server of the site."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from smtplib import (
    SMTP,
    SMTP_SSL,
    SMTPException,
    SMTPNotSupportedError,
    SMTPRecipientsRefused,
    SMTPResponseException,
)

from plugins.escalation.message import Message
from plugins.escalation.settings import Smtp
from readingroom import Contact, GiveUp, RetryLater


def send(settings: Smtp, contact: Contact, message: Message, now: datetime) -> str:
    """Hand a message to the mail server; gives its Message-ID.

    The Message-ID is the key of the message, so that a second copy is known as one.

    Raises
    ------
    GiveUp
        The server refuses it for good, or the address is none.
    RetryLater
        The server is not there, or says that another time may do.
    """
    mail = written(settings, contact, message, now)
    try:
        server = _connected(settings)
        try:
            server.send_message(mail)
            with suppress(SMTPException, OSError):
                server.quit()  # the message is taken, whatever is said now
        finally:
            server.close()
    except SMTPNotSupportedError as error:
        raise GiveUp(f"The mail server {settings.host} cannot take it: {error}.") from None
    except SMTPRecipientsRefused as error:
        ((code, _),) = error.recipients.values()
        raise _refused(settings, code) from None
    except SMTPResponseException as error:
        raise _refused(settings, error.smtp_code) from None
    except (SMTPException, OSError) as error:
        raise RetryLater(f"The mail server {settings.host} did not take it: {type(error).__name__}.") from None
    return str(mail["Message-ID"])


def written(settings: Smtp, contact: Contact, message: Message, now: datetime) -> EmailMessage:
    """The mail; raises `GiveUp` where the address of the contact is no mail address."""
    domain = settings.sender.rpartition("@")[2]
    mail = EmailMessage(policy=SMTP_POLICY)
    try:
        mail["To"] = Address(display_name=contact.name, addr_spec=contact.address)
    except (ValueError, MessageError, IndexError):
        raise GiveUp("The address of this contact is no mail address, such as desk@example.org.") from None
    mail["From"] = settings.sender
    mail["Subject"] = message.subject
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = f"<{message.key}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["Importance"] = "high"
    mail.set_content(message.text)
    return mail


def _connected(settings: Smtp) -> SMTP:
    domain = settings.sender.rpartition("@")[2]
    context = ssl.create_default_context()
    if settings.ca_file is not None:
        context.load_verify_locations(settings.ca_file)
    if settings.security == "tls":
        server: SMTP = SMTP_SSL(
            settings.host, settings.port, local_hostname=domain, timeout=settings.seconds, context=context
        )
    else:
        server = SMTP(settings.host, settings.port, local_hostname=domain, timeout=settings.seconds)
    try:
        if settings.security == "starttls":
            server.starttls(context=context)
        if settings.username is not None and settings.password is not None:
            server.login(settings.username, settings.password.get_secret_value())
    except BaseException:
        server.close()
        raise
    return server


def _refused(settings: Smtp, code: int) -> GiveUp | RetryLater:
    """What a reply means: 4yz is for now, 5yz for good (RFC 5321 4.2.1)."""
    told = f"The mail server {settings.host} answered {code}."
    return RetryLater(told) if 400 <= code < 500 else GiveUp(told)
