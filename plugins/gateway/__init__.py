"""Reports go by fax, and a text says that one is there: over the HTTP gateways of a site."""

from __future__ import annotations

from plugins.gateway.sending import send
from plugins.gateway.settings import GatewaySettings
from readingroom import Context, Destination, Receipt, Report, hookimpl


@hookimpl
def register_settings() -> type[GatewaySettings]:
    """``[plugins.gateway]``."""
    return GatewaySettings


@hookimpl
def deliver_report(report: Report, destination: Destination, pdf: str | None, ctx: Context) -> Receipt | None:
    """Hand a report over to the gateway of the destination's channel, if one is set up here."""
    settings: GatewaySettings = ctx.settings
    gateway = settings.gateways.get(destination.channel)
    if gateway is None:
        return None
    receipt = send(settings, gateway, report, destination, pdf, key=ctx.delivery)
    ctx.log.info("%s: the gateway of %s answered %s", ctx.delivery, destination.channel, receipt.code)
    return receipt
