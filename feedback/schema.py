"""The tables of the preference log. They only grow: rows are added, never changed, and go only when a listener asks.

`feedback/migrations` makes them; a test holds the two equal. Times are microseconds since 1970 (UTC), which both
databases keep exactly. `seq` is the order of arrival.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

REVISION = "0002"  # of the newest migration
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# SQLite numbers rows by itself only in a column of exactly its INTEGER
_SEQ = BigInteger().with_variant(Integer, "sqlite")


def _seq() -> Column:
    return Column("seq", _SEQ, primary_key=True, autoincrement=True)


listeners = Table(
    "listeners",
    metadata,
    _seq(),
    Column("listener_id", String(200), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("listener_group", Text, nullable=False),
    CheckConstraint("kind IN ('person', 'simulated')", name="kind"),
    sqlite_autoincrement=True,
)

consents = Table(  # the newest row of a listener counts
    "consents",
    metadata,
    _seq(),
    Column("listener_id", ForeignKey("listeners.listener_id"), nullable=False),
    Column("consent", String(16), nullable=False),
    Column("given_us", BigInteger, nullable=False),
    CheckConstraint("consent IN ('count', 'train', 'personal')", name="consent"),
    Index(None, "listener_id", "seq"),
    sqlite_autoincrement=True,
)

clips = Table(
    "clips",
    metadata,
    _seq(),
    Column("clip_id", String(64), nullable=False, unique=True),
    Column("prompt", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("policy_version", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("sample_rate_hz", Integer, nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("streams", Integer),  # K; null: no codes
    Column("codes", LargeBinary),  # [K, T] uint16, little-endian, row by row
    Column("audio", String(64), nullable=False, server_default=""),
    Column("original", String(80), nullable=False, server_default=""),
    sqlite_autoincrement=True,
)

pairs = Table(
    "pairs",
    metadata,
    _seq(),
    Column("pair_id", String(200), nullable=False, unique=True),
    Column("prompt", Text, nullable=False),
    Column("clip_a", ForeignKey("clips.clip_id"), nullable=False, index=True),
    Column("clip_b", ForeignKey("clips.clip_id"), nullable=False, index=True),
    Column("study", Text, nullable=False, index=True),
    Column("created_us", BigInteger, nullable=False),
    Column("origin", Text, nullable=False, server_default=""),  # JSON in ASCII: it may hold what no text column may
    sqlite_autoincrement=True,
)


authors = Table(  # who wrote a pair's prompt; apart from the pair, which may outlive its author
    "authors",
    metadata,
    Column("pair_id", ForeignKey("pairs.pair_id"), primary_key=True),
    Column("listener_id", ForeignKey("listeners.listener_id"), nullable=False, index=True),
)


def _answer(name: str, record_id: str, *own: Column | CheckConstraint) -> Table:
    """A table of answers to pairs: one per listener and pair."""
    return Table(
        name,
        metadata,
        _seq(),
        Column(record_id, String(200), nullable=False, unique=True),
        Column("pair_id", ForeignKey("pairs.pair_id"), nullable=False, index=True),
        Column("listener_id", ForeignKey("listeners.listener_id"), nullable=False),
        *own,
        Column("played_a", Text, nullable=False),  # JSON [[start, end], …] in seconds
        Column("played_b", Text, nullable=False),
        Column("heard_a_s", Float(53), nullable=False),
        Column("heard_b_s", Float(53), nullable=False),
        Column("answered_us", BigInteger, nullable=False),
        Column("recorded_us", BigInteger, nullable=False),
        UniqueConstraint("listener_id", "pair_id"),
        sqlite_autoincrement=True,
    )


votes = _answer(
    "votes",
    "vote_id",
    Column("choice", String(16), nullable=False),
    CheckConstraint("choice IN ('a', 'b', 'tie', 'neither')", name="choice"),
)
ratings = _answer(
    "ratings",
    "rating_id",
    Column("score_a", Integer, nullable=False),
    Column("score_b", Integer, nullable=False),
    CheckConstraint("score_a BETWEEN 1 AND 5 AND score_b BETWEEN 1 AND 5", name="scores"),
)

deletions = Table(
    "deletions",
    metadata,
    _seq(),
    Column("listener_hash", String(64), nullable=False, unique=True),
    Column("deleted_us", BigInteger, nullable=False),
    Column("votes", Integer, nullable=False),
    Column("ratings", Integer, nullable=False),
    Column("pairs", Integer, nullable=False),
    sqlite_autoincrement=True,
)
