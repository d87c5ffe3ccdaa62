"""``python -m tests.walks.short_leases serve ...``: a server whose jobs are taken over a second after it has died."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from server.cli import main
from server.sqlite_queue import SqliteQueue
from storage.catalog.leases import Lease

_LEASE = timedelta(seconds=1)

if __name__ == "__main__":
    queue: Any = SqliteQueue
    queue.__init__.__kwdefaults__["lease"] = _LEASE
    Lease.__init__.__kwdefaults__["lasts"] = _LEASE  # type: ignore[index]
    main()
