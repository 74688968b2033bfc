"""The steps of the engine's operations: pure ones, and steps inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable

from ..model.reason import Reason
from ..model.record import Draft, Record, limited, record_from, touched
from .admission import Leaving, Victims, for_one_more
from .base import Gone, Listed, Live, Removed, Rules, Taken, Terms, newest_first
from .tables import Tables, read_heads
from .tombstones import absent, finish_over, keep_reason, tombstone


def used(record: Record, rules: Rules, now: int, *, slide: bool) -> Record:
    """Returns *record* as a load changes it: with current limits and its use; itself if equal."""
    limits = rules.policy.limits_by_tag(record.limits_tag)
    fresh = limited(record, limits.idle, limits.lifetime)
    if fresh.deadline <= now:
        return fresh
    fresh = touched(fresh, now, limits.touch if slide else None)
    return record if fresh == record else fresh


def find(t: Tables, key: str, now: int, stamp: str = "") -> Record | Gone:
    """Returns the live session under *key*.

    :param stamp: of a call that may be repeated.
    """
    try:
        record = t.read(key)
    except ValueError:
        return Gone(Reason.CORRUPT)
    if record is None:
        return absent(t, key, now, stamp)
    if record.generation != t.generation():
        return finish_over(t, key, record, Reason.REVOKED, now)
    if record.deadline <= now:
        return finish_over(t, key, record, record.end_reason, now)
    return record


def replace(t: Tables, key: str, fresh: Record, record: Record, now: int) -> Live | Gone:
    """Store *fresh* in place of *record*, if they differ; end the session if *fresh* is due."""
    if fresh.deadline <= now:
        return finish_over(t, key, fresh, fresh.end_reason, now)
    if fresh is not record:
        t.put(key, fresh, record)
    return Live(fresh, now)


def begun(draft: Draft, generation: int, now: int) -> Record:
    """Returns the record of a new session."""
    return record_from(
        draft,
        created=draft.created or now,
        last_active=draft.last_active or now,
        stamps=(),
        generation=generation,
    )


def make_way(t: Tables, key: str, draft: Draft, now: int) -> Live | Taken | tuple[Removed, ...]:
    """Returns what is under the *key* of a new session: itself if the call is repeated.

    A tuple: the key is free; a session of an older generation was removed from it.
    """
    try:
        record = t.read(key)
    except ValueError:
        return Taken()
    if record is None:
        return Taken() if tombstone(t, key, now) else ()
    if record.generation != t.generation():
        return dismiss(t, {key: Reason.REVOKED}, now)
    return Live(record, now) if draft.stamp in record.stamps else Taken()


def admit(
    t: Tables,
    key: str,
    fresh: Record,
    rules: Rules,
    now: int,
    over: tuple[Removed, ...],
    leaving: Leaving | None = None,
) -> Live:
    """Store *fresh* with admission.

    :param over: sessions that were removed already.
    :param leaving: the session that it replaces.
    """
    victims, total = for_one_more(t, fresh, rules, now, leaving)
    removed = (*over, *dismiss(t, victims, now))
    t.put(key, fresh, None)
    if leaving is not None:
        # Last: if this is interrupted, the visitor still has a session.
        t.remove(leaving.key)
    return Live(fresh, now, removed, total)


def dismiss(t: Tables, victims: Victims, now: int) -> tuple[Removed, ...]:
    """Remove the *victims*. Returns those that existed, each with its reason."""
    removed = []
    for key, record in t.remove(*victims):
        why = victims[key] or record.end_reason
        keep_reason(t, key, record.user, why, now)
        removed.append(Removed(key, record.tier, why))
    return tuple(removed)


def refiled(record: Record, draft: Draft) -> Record:
    """Returns *record* with the tier, user and limits of *draft*."""
    return record._replace(
        tier=draft.tier,
        user=draft.user,
        idle=draft.idle,
        absolute=record.created + draft.lifetime,
        extended=draft.extended,
    )


def moved(record: Record, draft: Draft, terms: Terms, now: int) -> Record:
    """Returns *record* after a rotation."""
    fresh = successor(record, draft)
    if terms.slide or terms.restart:
        fresh = fresh._replace(last_active=now)
    if terms.restart:
        fresh = fresh._replace(created=now, absolute=now + draft.lifetime)
    return fresh


def successor(record: Record, draft: Draft) -> Record:
    """Returns *record* with the data of *draft*, and its own creation and last use."""
    return record_from(
        draft,
        created=record.created,
        last_active=record.last_active,
        stamps=record.stamps[:2],
        generation=record.generation,
    )


def is_filed(record: Record, draft: Draft) -> bool:
    """Returns whether *record* has the tier and user of *draft*."""
    return (record.tier, record.user) == (draft.tier, draft.user)


def live_ones(heads: Iterable[tuple[str, bytes]], now: int) -> list[Listed]:
    """Returns the sessions in *heads* that are not due, newest first."""
    return newest_first(listed for listed in read_heads(heads) if listed.record.deadline > now)
