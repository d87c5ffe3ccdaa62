"""Values of names and of sequences in tables of one form, in which what is configured has its place too.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

# What is listed from this release on; of what is stored already the server lists it in the background.
LISTED = {
    "study": {
        "00080090": "PN",
        "00081032.00080100": "SH",
        "00081032.00080102": "SH",
        "00081032.00080104": "LO",
        "00081060": "PN",
        "00100010": "PN",
        "00101001": "PN",
        "00101002.00100020": "LO",
    },
    "series": {
        "00081050": "PN",
        "00081070": "PN",
        "00400260.00080100": "SH",
        "00400260.00080102": "SH",
        "00400260.00080104": "LO",
        "00400275.00321060": "LO",
        "00400275.00321064.00080100": "SH",
        "00400275.00321064.00080102": "SH",
        "00400275.00321064.00080104": "LO",
        "00400275.00400007": "LO",
    },
    "instance": {
        "0040A043.00080100": "SH",
        "0040A043.00080102": "SH",
        "0040A043.00080104": "LO",
        "0040A073.0040A075": "PN",
        "0040A491": "CS",
        "0040A493": "CS",
        "00700080": "CS",
        "00700084": "PN",
    },
}
REQUESTS = {
    "scheduled_step_id": "00400275.00400009",
    "requested_procedure_id": "00400275.00401001",
    "accession_number": "00400275.00080050",
}


def upgrade() -> None:
    """Move the names and the requests, and say what is still to be listed."""
    values = {level: _make_values(level) for level in LISTED}
    search_key = op.create_table(
        "search_key",
        sa.Column("name", Text, nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False),
        sa.Column("vr", sa.String(length=2), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("reached", sa.String(length=32), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_search_key"),
    )
    connection = op.get_bind()
    name = sa.table("study_name", *map(sa.column, ("study", "attribute", "position", "folded")))
    moved = sa.select(name.c.attribute, name.c.folded, name.c.study, sa.literal_column("''"), name.c.position)
    columns = ["key", "value", "entity", "item", "number"]
    connection.execute(values["study"].insert().from_select(columns, moved))
    request = sa.table("series_request", *map(sa.column, ("series", "position", *REQUESTS)))
    is_sqlite = connection.dialect.name == "sqlite"
    item = sa.func.printf("%04x", request.c.position) if is_sqlite else _hex(request.c.position)
    for column, key in REQUESTS.items():
        moved = sa.select(sa.literal(key), request.c[column], request.c.series, item, sa.literal_column("0"))
        moved = moved.where(request.c[column].is_not(None), request.c.position < 0xFFFF)
        connection.execute(values["series"].insert().from_select(columns, moved))
    op.drop_table("study_name")
    op.drop_table("series_request")

    for level, keys in LISTED.items():
        total = connection.execute(sa.select(sa.func.count()).select_from(sa.table(level))).scalar_one()
        if total:
            common = {"level": level, "state": "listing", "reached": "", "done": 0, "total": total}
            connection.execute(search_key.insert(), [{"name": key, "vr": vr, **common} for key, vr in keys.items()])


def _hex(number: sa.ColumnElement[int]) -> sa.ColumnElement[str]:
    return sa.func.lpad(sa.func.to_hex(number), 4, "0")


def _make_values(level: str) -> sa.Table:
    table = op.create_table(
        f"{level}_value",
        sa.Column("key", Text, nullable=False),
        sa.Column("value", Text, nullable=False),
        sa.Column("entity", sa.String(length=32), nullable=False),
        sa.Column("item", Text, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["entity"], [f"{level}.id"], name=f"fk_{level}_value_entity", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", "value", "entity", "item", "number", name=f"pk_{level}_value"),
        sqlite_with_rowid=False,
    )
    op.create_index(f"ix_{level}_value_entity", f"{level}_value", ["entity", "key"])
    return table
