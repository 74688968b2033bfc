"""The SQL of the engine's tables, for SQLite. ``{p}`` is the prefix of the tables' names."""

# ruff: noqa: S608  # no value of a visitor is part of a statement

from __future__ import annotations

#: The version of the tables below. A store with a newer one is refused.
SCHEMA_VERSION = 1

# A user's sessions are evicted by place, then id: those whose cookie never came back first.
# Anonymous sessions have no owner and are in the group ''.
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS "{p}_sessions" (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        generation INTEGER NOT NULL,
        tier_group TEXT NOT NULL,
        deadline INTEGER NOT NULL,
        owner TEXT,
        place INTEGER,
        record BLOB NOT NULL)""",
    """CREATE INDEX IF NOT EXISTS "{p}_sessions_due"
        ON "{p}_sessions" (generation, tier_group, deadline, key)""",
    """CREATE INDEX IF NOT EXISTS "{p}_sessions_owned"
        ON "{p}_sessions" (owner, generation, tier_group, place) WHERE owner IS NOT NULL""",
    """CREATE TABLE IF NOT EXISTS "{p}_endings" (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        kind TEXT NOT NULL,
        owner TEXT NOT NULL,
        until INTEGER NOT NULL,
        reason TEXT NOT NULL,
        stamp TEXT NOT NULL,
        successor TEXT NOT NULL,
        user TEXT NOT NULL,
        sign_in INTEGER NOT NULL,
        UNIQUE (key, kind))""",
    'CREATE INDEX IF NOT EXISTS "{p}_endings_until" ON "{p}_endings" (kind, until)',
    'CREATE INDEX IF NOT EXISTS "{p}_endings_owner" ON "{p}_endings" (kind, owner)',
    """CREATE TABLE IF NOT EXISTS "{p}_counts" (
        what TEXT NOT NULL,
        name TEXT NOT NULL,
        held INTEGER NOT NULL,
        PRIMARY KEY (what, name)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS "{p}_documents" (
        name TEXT NOT NULL PRIMARY KEY, document BLOB NOT NULL, time INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS "{p}_meta" (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        version INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        ended_by TEXT NOT NULL)""",
    f"""INSERT OR IGNORE INTO "{{p}}_meta" VALUES (1, {SCHEMA_VERSION}, 0, '')""",
)


def _due(columns: str, more: str) -> str:
    """Returns a query of one group of the current generation."""
    where = "generation = :generation AND tier_group = :group"
    return f'SELECT {columns} FROM "{{p}}_sessions" WHERE {where} {more}'


def _take(ids: str) -> str:
    """Returns a statement that removes sessions and answers keys and heads."""
    returned = "RETURNING key, substr(record, 1, 96)"
    return f'DELETE FROM "{{p}}_sessions" WHERE id IN ({ids}) {returned}'


_ENTRY = "deadline, key"
_NEAREST = "ORDER BY deadline, key LIMIT :limit"
_LATEST = "ORDER BY deadline DESC, key DESC LIMIT :limit"
_OWNED = '"{p}_sessions" WHERE owner = ? AND generation = ?'
_SAME = 'WHERE key = ? AND record = ? AND generation = (SELECT generation FROM "{p}_meta")'
_COUNT = """INSERT INTO "{p}_counts" VALUES (?, ?, ?)
    ON CONFLICT (what, name) DO UPDATE SET held = held + excluded.held"""

#: By name.
STATEMENTS: dict[str, str] = {
    "version": 'SELECT version FROM "{p}_meta"',
    "generation": 'SELECT generation FROM "{p}_meta"',
    "ended_by": 'SELECT ended_by FROM "{p}_meta"',
    "begin_generation": 'UPDATE "{p}_meta" SET generation = ?, ended_by = ?',
    # -- sessions
    "load": """SELECT record, (SELECT generation FROM "{p}_meta")
        FROM "{p}_sessions" WHERE key = ?""",
    "head": 'SELECT key, substr(record, 1, ?) FROM "{p}_sessions" WHERE key = ?',
    "insert": """INSERT INTO "{p}_sessions"
        (generation, tier_group, deadline, owner, place, record, key)
        VALUES (?, ?, ?, ?, ?, ?, ?)""",
    "replace": 'UPDATE "{p}_sessions" SET record = ? WHERE key = ?',
    "move": """UPDATE "{p}_sessions" SET generation = ?, tier_group = ?, deadline = ?, owner = ?,
        place = ?, record = ? WHERE key = ?""",
    "replace_same": f'UPDATE "{{p}}_sessions" SET record = ? {_SAME}',
    "move_same": f"""UPDATE "{{p}}_sessions" SET generation = ?, tier_group = ?, deadline = ?,
        owner = ?, place = ?, record = ? {_SAME}""",
    "remove": 'DELETE FROM "{p}_sessions" WHERE key = ? RETURNING record, generation, tier_group',
    "take_older": _take('SELECT id FROM "{p}_sessions" WHERE generation < ? LIMIT ?'),
    "take_newer": _take('SELECT id FROM "{p}_sessions" WHERE generation > ? LIMIT ?'),
    "take_due": _take(_due("id", "AND deadline <= :now ORDER BY deadline LIMIT :limit")),
    # -- their index
    "count_due": _due("COUNT(*)", "AND deadline <= :now"),
    "nearest": _due(_ENTRY, _NEAREST),
    "nearest_after": _due(_ENTRY, f"AND (deadline, key) > (:deadline, :key) {_NEAREST}"),
    "latest": _due(_ENTRY, f"AND deadline > :now {_LATEST}"),
    "latest_before": _due(
        _ENTRY, f"AND deadline > :now AND (deadline, key) < (:deadline, :key) {_LATEST}"
    ),
    "of_user": f"SELECT key, substr(record, 1, ?) FROM {_OWNED} ORDER BY place, id LIMIT ?",
    "of_user_tier": f"""SELECT key, substr(record, 1, ?) FROM {_OWNED} AND tier_group = ?
        ORDER BY place, id LIMIT ?""",
    "count_of": f"SELECT COUNT(*) FROM {_OWNED}",
    "count_of_tier": f"SELECT COUNT(*) FROM {_OWNED} AND tier_group = ?",
    "belongs": f"SELECT COUNT(*) FROM {_OWNED} AND key = ?",
    "belongs_tier": f"SELECT COUNT(*) FROM {_OWNED} AND tier_group = ? AND key = ?",
    # -- counts
    "counts": """SELECT name, held FROM "{p}_counts" WHERE what = ? AND held <> 0""",
    "count": """SELECT held FROM "{p}_counts" WHERE what = ? AND name = ?""",
    "add": _COUNT,
    "uncount": 'DELETE FROM "{p}_counts" WHERE what = ?',
    "recount_groups": """SELECT tier_group, COUNT(*) FROM "{p}_sessions" WHERE generation = ?
        GROUP BY tier_group""",
    "recount_endings": 'SELECT kind, COUNT(*) FROM "{p}_endings" GROUP BY kind',
    # -- what is kept of sessions that are over, and documents
    "ending": """SELECT reason, stamp, successor, user, sign_in FROM "{p}_endings"
        WHERE key = ? AND kind = ? AND until > ?""",
    "put_ending": """INSERT INTO "{p}_endings"
        (key, kind, owner, until, reason, stamp, successor, user, sign_in)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    "drop_ending": 'DELETE FROM "{p}_endings" WHERE key = ? AND kind = ?',
    "count_endings_of": 'SELECT COUNT(*) FROM "{p}_endings" WHERE kind = ? AND owner = ?',
    "drop_oldest": """DELETE FROM "{p}_endings" WHERE id =
        (SELECT id FROM "{p}_endings" WHERE kind = ? ORDER BY until, id LIMIT 1)""",
    "drop_oldest_of": """DELETE FROM "{p}_endings" WHERE id =
        (SELECT id FROM "{p}_endings" WHERE kind = ? AND owner = ? ORDER BY id LIMIT 1)""",
    "forget": """DELETE FROM "{p}_endings" WHERE id IN
        (SELECT id FROM "{p}_endings" WHERE kind = ? AND until <= ? LIMIT 100)""",
    "document": 'SELECT document, time FROM "{p}_documents" WHERE name = ?',
    "put_document": """INSERT INTO "{p}_documents" VALUES (?, ?, ?)
        ON CONFLICT (name) DO UPDATE SET document = excluded.document, time = excluded.time""",
}


def statements(prefix: str) -> dict[str, str]:
    """Returns the statements for tables under *prefix*."""
    return {name: named(text, prefix) for name, text in STATEMENTS.items()}


def named(text: str, prefix: str) -> str:
    """Returns *text* with the names of the tables under *prefix*."""
    return text.replace("{p}", prefix.replace('"', '""'))
