"""Triggers that refuse to change a row: append-only is a promise of the database, not of the program."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

_FUNCTION = """
CREATE OR REPLACE FUNCTION preference_log_append_only() RETURNS trigger AS $$
BEGIN
  RAISE EXCEPTION USING MESSAGE = 'rows of ' || TG_TABLE_NAME || ' are never changed';
END;
$$ LANGUAGE plpgsql
"""


def forbid_updates(connection: Connection, tables: Sequence[str]) -> None:
    """An UPDATE of any row of `tables` fails from now on."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_FUNCTION)
        for table in tables:
            connection.exec_driver_sql(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION preference_log_append_only()"
            )
        return
    for table in tables:
        connection.exec_driver_sql(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE ON {table} "
            f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed'); END"
        )
