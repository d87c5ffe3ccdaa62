"""What carries signed reports elsewhere; each is a `server.reports.delivery.Channel`."""
