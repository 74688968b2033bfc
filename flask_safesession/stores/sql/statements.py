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
_GENERATION = '(SELECT generation FROM "{p}_meta")'
_CURRENT = f"generation = {_GENERATION}"
_GROUP = f"{_SESSIONS} WHERE {_CURRENT} AND tier_group = ?"
_OWNED = f"{_SESSIONS} WHERE owner = ? AND {_CURRENT}"
_ENTRY = 'SELECT deadline, "key", id FROM'
# The same, for a range between two deadlines: this one is read from the index alone. Otherwise
# MariaDB does not begin at one end of the range, but at that of the group.
_ENTRY_WITHIN = f"""SELECT deadline,
    (SELECT "key" FROM {_SESSIONS} AS it WHERE it.id = entry.id), id
    FROM {_SESSIONS} AS entry WHERE {_CURRENT} AND tier_group = ?"""
_BY_DEADLINE, _LATEST = "ORDER BY deadline, id LIMIT ?", "ORDER BY deadline DESC, id DESC LIMIT ?"
_INSERTED = 'generation, tier_group, deadline, owner, place, record, "key"'
_COLUMNS = "generation = ?, tier_group = ?, deadline = ?, owner = ?, place = ?, record = ?"
_OLDER = f"generation < {_GENERATION}"
_NEWER = f"generation > {_GENERATION}"
_DUE = f"{_CURRENT} AND tier_group = ? AND deadline <= {{clock}}"
# A number, not a parameter: PostgreSQL takes this for a tenth of all rows, and would read them all.
# Twice as many as a step of the purge removes, since others may have locked some.
_BY_GENERATION, _BY_TIME = (f" ORDER BY {it} LIMIT 1000" for it in ("generation", "deadline"))
_ENDING = '"key", kind'
_EXPIRED, _BY_EXPIRY = "kind = ? AND expires <= {clock}", " ORDER BY expires LIMIT 100"
_NEWEST_FIRST = " ORDER BY expires DESC LIMIT 1000 OFFSET ?"
# What a conditional update requires: the record that was loaded is stored and is live, and the time
# is about what the caller has taken it for.
_SAME = f"""WHERE "key" = ? AND {_HEAD} = ? AND {_CURRENT}
    AND deadline > {{clock}} AND {{clock}} BETWEEN ? AND ?{{limit}}"""


def _take(table: str, columns: str, still: str, chosen: str) -> str:
    """Returns the query that locks rows, without those that others have locked.

    They are chosen without a lock, then locked by their key, as all others do it: InnoDB locks the
    entry of the index by which it finds a row, too, and so two could wait for each other.

    :param still: must be true of a row also when it is locked, since others may have changed it.
    :param chosen: which ones.
    """
    by_key = "{by_key}" if table == "sessions" else ""  # the others have it as the primary key
    table = f'"{{p}}_{table}"'
    return f"""SELECT {columns} FROM (SELECT "key" AS it FROM {table} WHERE {chosen}) AS chosen
        {{join}} {table} AS taken{by_key} ON taken."key" = chosen.it WHERE {still}{{skip}}"""


_STATEMENTS = {
    "version": 'SELECT version FROM "{p}_meta"',
    "meta": 'SELECT generation, ended_by, {clock} FROM "{p}_meta"',
    "begin_generation": 'UPDATE "{p}_meta" SET generation = ?, ended_by = ?',
    # -- sessions
    "load": f"""SELECT record, {_GENERATION}, {{clock}}
        FROM {_SESSIONS} WHERE "key" = ?""",
    "insert": f"INSERT INTO {_SESSIONS} ({_INSERTED}) VALUES (?, ?, ?, ?, ?, ?, ?)",
    "replace": f'UPDATE {_SESSIONS} SET record = ? WHERE "key" = ?',
    "move": f'UPDATE {_SESSIONS} SET {_COLUMNS} WHERE "key" = ?',
    "replace_same": f"UPDATE {_SESSIONS} SET record = ? {_SAME}",
    "move_same": f"UPDATE {_SESSIONS} SET {_COLUMNS} {_SAME}",
    "older": _take("sessions", f'"key", {_HEAD}', f"{_OLDER} LIMIT ?", _OLDER + _BY_GENERATION),
    "newer": _take("sessions", f'"key", {_HEAD}', f"{_NEWER} LIMIT ?", _NEWER + _BY_GENERATION),
    "due": _take("sessions", f'"key", {_HEAD}', f"{_DUE} LIMIT ?", _DUE + _BY_TIME),
    # -- their index
    "count_due": f"SELECT COUNT(*) FROM {_GROUP} AND deadline <= ?",
    "nearest": f"{_ENTRY} {_GROUP} {_BY_DEADLINE}",
    "nearest_after": f"""{_ENTRY_WITHIN} AND deadline >= ?
        AND (deadline > ? OR id > ?) {_BY_DEADLINE}""",
    "latest": f"{_ENTRY} {_GROUP} AND deadline > ? {_LATEST}",
    "latest_before": f"""{_ENTRY_WITHIN} AND deadline > ? AND deadline <= ?
        AND (deadline < ? OR id < ?) {_LATEST}""",
    "of_user": f'SELECT "key", {_LISTED} FROM {_OWNED} ORDER BY place, id LIMIT ?',
    "of_user_tier": f"""SELECT "key", {_LISTED} FROM {_OWNED} AND tier_group = ?
        ORDER BY place, id LIMIT ?""",
    "count_of": f"SELECT COUNT(*) FROM {_OWNED}",
    "count_of_tier": f"SELECT COUNT(*) FROM {_OWNED} AND tier_group = ?",
    "belongs": f'SELECT COUNT(*) FROM {_OWNED} AND "key" = ?',
    "belongs_tier": f'SELECT COUNT(*) FROM {_OWNED} AND tier_group = ? AND "key" = ?',
    # -- counts, and the caps of parts
    "lock": 'SELECT {first} FROM "{p}_seats" WHERE part = ?{lock}',
    "held": 'SELECT part, held, tiers FROM "{p}_seats" WHERE held <> 0 OR tiers IS NOT NULL',
    "count": 'UPDATE "{p}_seats" SET held = ?, tiers = ? WHERE part = ?',
    "uncount": 'UPDATE "{p}_seats" SET held = 0, tiers = NULL, cap = 0',
    "compare": f"""SELECT tier_group, COUNT(*), NULL FROM {_SESSIONS} WHERE {_CURRENT}
        GROUP BY tier_group UNION ALL SELECT NULL, held, tiers FROM "{{p}}_seats" """,
    "deal": """UPDATE "{p}_seats" SET cap = ?, users_cap = ?, total = ?, users = ?
        WHERE part = ?""",
    "undeal": 'UPDATE "{p}_seats" SET cap = 0',
    # -- what is kept of sessions that are over, and documents
    "expired": _take("endings", _ENDING, _EXPIRED, _EXPIRED + _BY_EXPIRY),
    "surplus": _take("endings", _ENDING, "kind = ?", "kind = ?" + _NEWEST_FIRST),
    "surplus_of": _take("endings", _ENDING, "kind = ?", "kind = ? AND owner = ?" + _NEWEST_FIRST),
    "drop": f'DELETE FROM {_ENDINGS} WHERE "key" = ? AND kind = ?',
    "count_endings": f"SELECT COUNT(*) FROM {_ENDINGS} WHERE kind = ?",
    "head": f'SELECT "key", {_LISTED} FROM {_SESSIONS} WHERE "key" = ?',
    "document": 'SELECT document, written FROM "{p}_documents" WHERE name = ?',
}
# A new session in a part that is locked: the quota has room, the generation is the current one, the
# time is about what the caller has taken it for, and the key was never used.
_INSERT_WITHIN = f"""INSERT INTO {_SESSIONS} ({_INSERTED})
    SELECT ?, ?, ?, ?, ?, ?, ? FROM "{{p}}_seats", "{{p}}_meta" WHERE generation = ?
    AND part = ? AND {{room}} AND {{clock}} BETWEEN ? AND ?
    AND NOT EXISTS (SELECT 1 FROM {_ENDINGS} WHERE "key" = ?)
    AND NOT EXISTS (SELECT 1 FROM {_SESSIONS} WHERE "key" = ?)"""
_PUT_ENDING = (
    '"key", kind, owner, expires, ending',
    '"key", kind',
    "owner = <owner>, expires = <expires>, ending = <ending>",
)
_REPLACED = "document = <document>, written = <written>"
# Rows are locked in the order of their keys, so that no two transactions wait for each other.
_FOR_KEYS = {
    "records": f"""SELECT "key", record, generation, tier_group FROM {_SESSIONS}{{by_key}}
        WHERE "key" IN ({{keys}}) ORDER BY "key"{{lock}}""",
    "remove": f'DELETE {{of}}FROM {_SESSIONS}{{by_key}} WHERE "key" IN ({{keys}})',
    "endings": f'SELECT "key", kind, expires, ending FROM {_ENDINGS} WHERE "key" IN ({{keys}})',
    "seats": """SELECT part, held, tiers, cap, users_cap, total, users FROM "{p}_seats"
        WHERE part IN ({keys}) ORDER BY part{lock}""",
}


class Statements(dict[str, str]):
    """The statements for tables under *prefix*, by name."""

    def __init__(self, dialect: Dialect, prefix: str) -> None:
        put = {
            "put_ending": dialect.put("endings", *_PUT_ENDING),
            "put_document": dialect.put("documents", "name, document, written", "name", _REPLACED),
        }
        texts = {**_STATEMENTS, **put}
        super().__init__({name: dialect.render(text, prefix) for name, text in texts.items()})
        #: Those that store a new session within a quota, each with its number of parameters.
        self.insertion: list[tuple[str, int]] = []
        count = f'UPDATE "{{p}}_seats" SET held = held + 1 WHERE part = ? AND {dialect.inserted}'
        insert = _INSERT_WITHIN.replace("{room}", dialect.room)
        for template in dialect.then:
            text = template.replace("<insert>", insert).replace("<count>", count)
            self.insertion.append((dialect.render(text, prefix), text.count("?")))
        #: The time in milliseconds.
        self.clock: str = dialect.clock
        self._dialect = dialect
        self._prefix = prefix

    def schema(self) -> list[str]:
        """Returns the statements that make the tables."""
        return printed(self._dialect, self._prefix)

    def for_keys(self, name: str, number: int, *, lock: bool = True) -> str:
        """Returns the statement ``records``, ``remove``, ``endings`` or ``seats`` for so many keys.

        :param lock: ``False``: for a transaction that only reads, perhaps on a replica.
        """
        known = f"{name} {number} {lock}"
        if known not in self:
            text = _FOR_KEYS[name].replace("{keys}", ", ".join("?" * number))
            text = text if lock else text.replace("{lock}", "")
            self[known] = self._dialect.render(text, self._prefix)
        return self[known]
