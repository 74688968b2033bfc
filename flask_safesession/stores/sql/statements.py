"""The SQL of the engine's tables. ``{p}`` is the prefix of their names; see :class:`.Dialect`."""

# ruff: noqa: S608  # no value of a visitor is part of a statement

from __future__ import annotations

from ..base import LISTED
from .dialect import Dialect
from .schema import printed

#: Bytes of a record before its note: they say which one it is, since each write has a stamp.
HEAD = 96
_HEAD = f"substr(record, 1, {HEAD})"
# All that lists read.
_LISTED = f"substr(record, 1, {LISTED})"
_SESSIONS, _ENDINGS = '"{p}_sessions"', '"{p}_endings"'
_CURRENT = 'generation = (SELECT generation FROM "{p}_meta")'
_GROUP = f"{_SESSIONS} WHERE {_CURRENT} AND tier_group = ?"
_OWNED = f"{_SESSIONS} WHERE owner = ? AND {_CURRENT}"
_BY_DEADLINE = 'ORDER BY deadline, "key" LIMIT ?'
_LATEST = 'ORDER BY deadline DESC, "key" DESC LIMIT ?'
_COLUMNS = "generation = ?, tier_group = ?, deadline = ?, owner = ?, place = ?, record = ?"
_KEPT = "reason, stamp, successor, successor_user, sign_in"
# What a conditional update requires: the record that was loaded is stored and is live, and the time
# is about what the caller has taken it for.
_SAME = f"""WHERE "key" = ? AND {_HEAD} = ? AND {_CURRENT}
    AND deadline > {{clock}} AND {{clock}} BETWEEN ? AND ?"""

_STATEMENTS = {
    "version": 'SELECT version FROM "{p}_meta"',
    "meta": 'SELECT generation, ended_by, {clock} FROM "{p}_meta"',
    "begin_generation": 'UPDATE "{p}_meta" SET generation = ?, ended_by = ?',
    # -- sessions
    "load": f"""SELECT record, (SELECT generation FROM "{{p}}_meta"), {{clock}}
        FROM {_SESSIONS} WHERE "key" = ?""",
    "insert": f"""INSERT INTO {_SESSIONS}
        (generation, tier_group, deadline, owner, place, record, "key")
        VALUES (?, ?, ?, ?, ?, ?, ?)""",
    "replace": f'UPDATE {_SESSIONS} SET record = ? WHERE "key" = ?',
    "move": f'UPDATE {_SESSIONS} SET {_COLUMNS} WHERE "key" = ?',
    "replace_same": f"UPDATE {_SESSIONS} SET record = ? {_SAME}",
    "move_same": f"UPDATE {_SESSIONS} SET {_COLUMNS} {_SAME}",
    "remove": f'DELETE FROM {_SESSIONS} WHERE "key" = ?',
    "older": f"""SELECT "key", {_HEAD} FROM {_SESSIONS}
        WHERE generation < (SELECT generation FROM "{{p}}_meta") LIMIT ?{{skip}}""",
    "newer": f"""SELECT "key", {_HEAD} FROM {_SESSIONS}
        WHERE generation > (SELECT generation FROM "{{p}}_meta") LIMIT ?{{skip}}""",
    "due": f"""SELECT "key", {_HEAD} FROM {_GROUP} AND deadline <= {{clock}}
        ORDER BY deadline LIMIT ?{{skip}}""",
    # -- their index
    "count_due": f"SELECT COUNT(*) FROM {_GROUP} AND deadline <= ?",
    "nearest": f'SELECT deadline, "key" FROM {_GROUP} {_BY_DEADLINE}',
    "nearest_after": f"""SELECT deadline, "key" FROM {_GROUP} AND deadline >= ?
        AND (deadline > ? OR "key" > ?) {_BY_DEADLINE}""",
    "latest": f'SELECT deadline, "key" FROM {_GROUP} AND deadline > ? {_LATEST}',
    "latest_before": f"""SELECT deadline, "key" FROM {_GROUP} AND deadline > ? AND deadline <= ?
        AND (deadline < ? OR "key" < ?) {_LATEST}""",
    "of_user": f'SELECT "key", {_LISTED} FROM {_OWNED} ORDER BY place, id LIMIT ?',
    "of_user_tier": f"""SELECT "key", {_LISTED} FROM {_OWNED} AND tier_group = ?
        ORDER BY place, id LIMIT ?""",
    "count_of": f"SELECT COUNT(*) FROM {_OWNED}",
    "count_of_tier": f"SELECT COUNT(*) FROM {_OWNED} AND tier_group = ?",
    "belongs": f'SELECT COUNT(*) FROM {_OWNED} AND "key" = ?',
    "belongs_tier": f'SELECT COUNT(*) FROM {_OWNED} AND tier_group = ? AND "key" = ?',
    # -- counts
    "counts": """SELECT tier_group, CAST(SUM(held) AS {cast}) FROM "{p}_counts"
        GROUP BY tier_group HAVING SUM(held) <> 0""",
    "held": 'SELECT tier_group, held FROM "{p}_counts" WHERE part = ? AND held <> 0',
    "parts": 'SELECT part, tier_group, held FROM "{p}_counts"',
    "uncount": 'UPDATE "{p}_counts" SET held = 0',
    "differ": f"""SELECT tier_group, CAST(SUM(held) AS {{cast}}) FROM (
        SELECT tier_group, COUNT(*) AS held FROM {_SESSIONS} WHERE {_CURRENT} GROUP BY tier_group
        UNION ALL SELECT tier_group, -held FROM "{{p}}_counts") AS both_ways
        GROUP BY tier_group HAVING SUM(held) <> 0""",
    "deal": """UPDATE "{p}_seats" SET cap = ?, users_cap = ?, total = ?, users = ?
        WHERE part = ?""",
    "undeal": 'UPDATE "{p}_seats" SET cap = 0',
    # -- what is kept of sessions that are over, and documents
    "drop_ending": f'DELETE FROM {_ENDINGS} WHERE "key" = ? AND kind = ?',
    "put_ending": f"""INSERT INTO {_ENDINGS} ("key", kind, owner, expires, {_KEPT})
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    "trim": f"""DELETE FROM {_ENDINGS} WHERE kind = ? AND id <= (SELECT id FROM (SELECT id
        FROM {_ENDINGS} WHERE kind = ? ORDER BY expires DESC, id DESC LIMIT 1 OFFSET ?) AS oldest)
        """,
    "trim_of": f"""DELETE FROM {_ENDINGS} WHERE kind = ? AND owner = ? AND id <= (
        SELECT id FROM (SELECT id FROM {_ENDINGS} WHERE kind = ? AND owner = ?
        ORDER BY id DESC LIMIT 1 OFFSET ?) AS oldest)""",
    "forget": f"""DELETE FROM {_ENDINGS} WHERE id IN (SELECT id FROM (
        SELECT id FROM {_ENDINGS} WHERE kind = ? AND expires <= ? LIMIT 100) AS expired)""",
    "head": f'SELECT "key", {_LISTED} FROM {_SESSIONS} WHERE "key" = ?',
    "document": 'SELECT document, written FROM "{p}_documents" WHERE name = ?',
}
_ADDED = 'held = "{p}_counts".held + <held>'
_REPLACED = "document = <document>, written = <written>"
# Rows are locked in the order of their keys, so that no two transactions wait for each other.
_FOR_KEYS = {
    "records": f"""SELECT "key", record, generation, tier_group FROM {_SESSIONS}
        WHERE "key" IN ({{keys}}) ORDER BY "key"{{lock}}""",
    "endings": f"""SELECT "key", kind, expires, {_KEPT} FROM {_ENDINGS}
        WHERE "key" IN ({{keys}})""",
    "seats": """SELECT part, cap, users_cap, total, users FROM "{p}_seats"
        WHERE part IN ({keys}) ORDER BY part{lock}""",
}


class Statements(dict[str, str]):
    """The statements for tables under *prefix*, by name."""

    def __init__(self, dialect: Dialect, prefix: str) -> None:
        put_count, put_document = (
            dialect.put("counts", "part, tier_group, held", "part, tier_group", _ADDED),
            dialect.put("documents", "name, document, written", "name", _REPLACED),
        )
        texts = {**_STATEMENTS, "add": put_count, "put_document": put_document}
        super().__init__({name: dialect.render(text, prefix) for name, text in texts.items()})
        #: The time in milliseconds.
        self.clock: str = dialect.clock
        self._dialect = dialect
        self._prefix = prefix

    def schema(self) -> list[str]:
        """Returns the statements that make the tables."""
        return printed(self._dialect, self._prefix)

    def for_keys(self, name: str, number: int) -> str:
        """Returns the query ``records``, ``endings`` or ``seats`` for so many keys."""
        known = f"{name} {number}"
        if known not in self:
            text = _FOR_KEYS[name].replace("{keys}", ", ".join("?" * number))
            self[known] = self._dialect.render(text, self._prefix)
        return self[known]
