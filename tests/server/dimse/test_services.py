"""The conformance statement lists what really is served by DIMSE."""

from __future__ import annotations

from conformance.statement import DIMSE
from server.associations import commands
from server.dimse.services import all_services
from server.room import Room


def test_the_statement_lists_what_is_served(room: Room) -> None:
    served = {
        (sop_class, name.replace("_", "-"))
        for sop_class, number in all_services(room, ae_title="READINGROOM")
        for name, value in vars(commands).items()
        if name.startswith(("C_", "N_")) and value == number
    }
    listed = {
        (sop_class, operation)
        for sop_class, role, operations in DIMSE
        for operation in operations.split(", ")
        if "SCP" in role and operation != "N-EVENT-REPORT"
    }
    assert listed == served
