"""Listeners, their consents, clips, pairs, votes, ratings, deletions."""

from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op

from feedback.migrations.append_only import forbid_updates

revision = "0001"
down_revision = None

SEQ = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TABLES = ("listeners", "consents", "clips", "pairs", "votes", "ratings", "deletions")


def upgrade() -> None:
    _listeners()
    _clips_and_pairs()
    _answers("votes", "vote_id", "choice IN ('a', 'b', 'tie', 'neither')", "choice", {"choice": sa.String(16)})
    scores = {"score_a": sa.Integer(), "score_b": sa.Integer()}
    _answers("ratings", "rating_id", "score_a BETWEEN 1 AND 5 AND score_b BETWEEN 1 AND 5", "scores", scores)
    forbid_updates(op.get_bind(), TABLES)


def _table(name: str, *parts: sa.schema.SchemaItem) -> None:
    seq = sa.Column("seq", SEQ, autoincrement=True, nullable=False)
    op.create_table(name, seq, *parts, sa.PrimaryKeyConstraint("seq", name=f"pk_{name}"), sqlite_autoincrement=True)


def _listeners() -> None:
    _table(
        "listeners",
        sa.Column("listener_id", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("listener_group", sa.Text(), nullable=False),
        sa.UniqueConstraint("listener_id", name="uq_listeners_listener_id"),
        sa.CheckConstraint("kind IN ('person', 'simulated')", name=op.f("ck_listeners_kind")),
    )
    _table(
        "consents",
        sa.Column("listener_id", sa.String(200), nullable=False),
        sa.Column("consent", sa.String(16), nullable=False),
        sa.Column("given_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["listener_id"], ["listeners.listener_id"], name="fk_consents_listener_id"),
        sa.CheckConstraint("consent IN ('count', 'train', 'personal')", name=op.f("ck_consents_consent")),
    )
    op.create_index("ix_consents_listener_id_seq", "consents", ["listener_id", "seq"])
    _table(
        "deletions",
        sa.Column("listener_hash", sa.String(64), nullable=False),
        sa.Column("deleted_us", sa.BigInteger(), nullable=False),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("ratings", sa.Integer(), nullable=False),
        sa.Column("pairs", sa.Integer(), nullable=False),
        sa.UniqueConstraint("listener_hash", name="uq_deletions_listener_hash"),
    )


def _clips_and_pairs() -> None:
    _table(
        "clips",
        sa.Column("clip_id", sa.String(64), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("sample_rate_hz", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("streams", sa.Integer()),
        sa.Column("codes", sa.LargeBinary()),
        sa.UniqueConstraint("clip_id", name="uq_clips_clip_id"),
    )
    _table(
        "pairs",
        sa.Column("pair_id", sa.String(200), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("clip_a", sa.String(64), nullable=False),
        sa.Column("clip_b", sa.String(64), nullable=False),
        sa.Column("study", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("pair_id", name="uq_pairs_pair_id"),
        sa.ForeignKeyConstraint(["clip_a"], ["clips.clip_id"], name="fk_pairs_clip_a"),
        sa.ForeignKeyConstraint(["clip_b"], ["clips.clip_id"], name="fk_pairs_clip_b"),
    )
    for column in ("clip_a", "clip_b", "study"):
        op.create_index(f"ix_pairs_{column}", "pairs", [column])


def _answers(name: str, record_id: str, check: str, check_name: str, own: Mapping[str, sa.types.TypeEngine]) -> None:
    _table(
        name,
        sa.Column(record_id, sa.String(200), nullable=False),
        sa.Column("pair_id", sa.String(200), nullable=False),
        sa.Column("listener_id", sa.String(200), nullable=False),
        *(sa.Column(column, kind, nullable=False) for column, kind in own.items()),
        sa.Column("played_a", sa.Text(), nullable=False),
        sa.Column("played_b", sa.Text(), nullable=False),
        sa.Column("heard_a_s", sa.Float(53), nullable=False),
        sa.Column("heard_b_s", sa.Float(53), nullable=False),
        sa.Column("answered_us", sa.BigInteger(), nullable=False),
        sa.Column("recorded_us", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint(record_id, name=f"uq_{name}_{record_id}"),
        sa.UniqueConstraint("listener_id", "pair_id", name=f"uq_{name}_listener_id_pair_id"),
        sa.ForeignKeyConstraint(["pair_id"], ["pairs.pair_id"], name=f"fk_{name}_pair_id"),
        sa.ForeignKeyConstraint(["listener_id"], ["listeners.listener_id"], name=f"fk_{name}_listener_id"),
        sa.CheckConstraint(check, name=op.f(f"ck_{name}_{check_name}")),
    )
    op.create_index(f"ix_{name}_pair_id", name, ["pair_id"])
