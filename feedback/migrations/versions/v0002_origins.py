"""Imported files: sound that is no clip's id, the file it was made from, what else a file held; who asked."""

import sqlalchemy as sa
from alembic import op

from feedback.migrations.append_only import forbid_updates

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("clips", sa.Column("audio", sa.String(64), nullable=False, server_default=""))
    op.add_column("clips", sa.Column("original", sa.String(80), nullable=False, server_default=""))
    op.add_column("pairs", sa.Column("origin", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "authors",
        sa.Column("pair_id", sa.String(200), nullable=False),
        sa.Column("listener_id", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("pair_id", name="pk_authors"),
        sa.ForeignKeyConstraint(["pair_id"], ["pairs.pair_id"], name="fk_authors_pair_id"),
        sa.ForeignKeyConstraint(["listener_id"], ["listeners.listener_id"], name="fk_authors_listener_id"),
    )
    op.create_index("ix_authors_listener_id", "authors", ["listener_id"])
    forbid_updates(op.get_bind(), ("authors",))
