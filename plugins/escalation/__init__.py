"""Escalations reach people: the ladders of a site, and the channels mail, webhook, and voice and SMS gateways."""

from __future__ import annotations

from plugins.escalation import gateway, mail, webhook
from plugins.escalation.ladder import ladder_of
from plugins.escalation.message import Message
from plugins.escalation.settings import EscalationSettings
from readingroom import Contact, Context, Escalation, Facility, Notified, Rung, hookimpl


@hookimpl
def register_settings() -> type[EscalationSettings]:
    """``[plugins.escalation]``."""
    return EscalationSettings


@hookimpl
def ladder_for(escalation: Escalation, facility: Facility, ctx: Context) -> tuple[Rung, ...] | None:
    """Follow the first ladder of the site that is about the escalation."""
    return ladder_of(escalation, facility, ctx.settings)


@hookimpl
def notify_contact(escalation: Escalation, rung: Rung, contact: Contact, ctx: Context) -> Notified | None:
    """Hand a message over to what carries the channel of the contact, if that is set up here."""
    settings: EscalationSettings = ctx.settings
    message = Message.about(escalation, rung, contact, settings)
    if contact.channel == "smtp" and settings.smtp is not None:
        reference = mail.send(settings.smtp, contact, message, ctx.clock.now())
    elif contact.channel == "webhook" and settings.webhooks:
        reference = webhook.send(settings, contact, message, ctx.clock.now())
    elif contact.channel in settings.gateways:
        reference = gateway.send(settings, contact, message)
    else:
        return None
    ctx.log.info("%s: %s took the message for rung %d", escalation.id, contact.channel, rung.number)
    return Notified(reference=reference, at=ctx.clock.now())
