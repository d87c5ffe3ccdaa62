"""How many HL7 messages a second are kept: on one connection and on eight, each acknowledged after its commit.

`python -m benchmarks.hl7` starts the server in a process of its own, on SQLite with ``synchronous=FULL``, and sends it
orders, one at a time on each connection.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from server.hl7.mllp import framed

SECONDS = 5.0
CONNECTIONS = (1, 8)
_ORDER = (
    "MSH|^~\\&|RIS|HOSP|READINGROOM|RAD|20261124093000||ORM^O01^ORM_O01|{id}|P|2.5.1\r"
    "PID|||{patient}^^^HOSP||DOE^JANE||19700101|F\r"
    "PV1||O||||||^REFERRER^RUTH\r"
    "ORC|NW|P{id}|F{id}||SC\r"
    "OBR|1|P{id}|F{id}|CTHEAD^CT of the head^L|||||||||||||A{id}|RP{id}|SPS{id}||||CT\r"
    "ZDS|1.2.826.0.1.3680043.8.498.{id}^100^Application^DICOM\r"
)


def main() -> None:
    """Measure, and print a line for each number of connections."""
    with tempfile.TemporaryDirectory(prefix="bench-hl7-", dir=os.environ.get("BENCH_DIR", ".")) as folder:
        config = Path(folder) / "readingroom.toml"
        config.write_text("[hl7]\nany_sender = true\n")
        command = [sys.executable, "-m", "server.cli", "hl7", "serve", "--port", "0", "--data", f"{folder}/data"]
        with subprocess.Popen([*command, "--config", str(config)], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            found = re.search(r":(\d+)\.", server.stdout.readline())
            assert found is not None, "the server did not start"
            try:
                for number in CONNECTIONS:
                    before = cpu_seconds(server.pid)
                    count, seconds = measure(int(found[1]), number)
                    cost_ms = (cpu_seconds(server.pid) - before) / count * 1000
                    print(
                        f"{number} connection{'s' if number > 1 else ' '}: {count / seconds:,.0f} messages/s, each "
                        f"durable; {cost_ms:.2f} ms of the server's processor time a message",
                        flush=True,
                    )
            finally:
                server.terminate()


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(port: int, connections: int) -> tuple[int, float]:
    """How many messages are acknowledged, and in how many seconds."""
    return uvloop.run(_measure(port, connections))


async def _measure(port: int, connections: int) -> tuple[int, float]:
    begun = time.monotonic()
    until = begun + SECONDS

    async def send(which: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        done = 0
        while time.monotonic() < until:
            id = f"{connections}{which:02}{done:07}"
            writer.write(framed(_ORDER.format(id=id, patient=f"PAT{done % 500}").encode()))
            told = await reader.readuntil(b"\x1c\r")
            assert b"\rMSA|AA|" in told, told
            done += 1
        writer.close()
        return done

    counts = await asyncio.gather(*(send(which) for which in range(connections)))
    return sum(counts), time.monotonic() - begun


if __name__ == "__main__":
    main()
