"""Finds the session behind a request's cookies, or its stand-in.

Judges the secrets of IDs, and files records anew in which the settings now find another user or
tier.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ..config.overrides import Overrides
from ..errors import ConfigError, StoreUnavailable
from ..model import note as notes
from ..model.codec import decode
from ..model.identity import Identity
from ..model.note import GOOD, Note, Secret
from ..model.reason import Reason
from ..model.record import Draft, Record
from ..model.tokens import NO_USER, SessionID, Verified, new_stamp, tier_tag
from ..stores import base
from ..stores.urls import MEMORY_URL, PER_PROCESS, SQLITE_URL
from . import collisions, transport
from .adoption import Adoption
from .change import whose
from .outcome import end_stolen, report_due, report_end
from .state import MAX_STAND_INS, Loaded, State, Stored, Suspect

# Whether the server runs several processes (PEP 3333).
_MULTIPROCESS = "wsgi.multiprocess"
# Where a socket keeps the key of the session that its handshake resolved.
_SOCKET_KEY = "flask_safesession.key"
# Corrupt records that this process remembers having reported: each is reported once.
_REPORTED = 1000
# Attempts to note a replaced secret, in case of conflicts.
_TRIES = 3


class Loader:
    """Finds the session of a request.

    :param overrides: holds the app's current settings and its store.
    :param say: logs a message once; takes its name and its text.
    :param adoption: finds sessions in older places; ``None``: there are none.
    """

    def __init__(
        self,
        overrides: Overrides,
        say: Callable[[str, str], None],
        adoption: Adoption | None = None,
    ) -> None:
        self._overrides = overrides
        self._adoption = adoption
        self._say = say
        self._corrupt: OrderedDict[str, None] = OrderedDict()

    def find(self, state: State, name: str, *, slide: bool) -> Loaded:
        """Returns the session behind the request's cookies of this *name*.

        :raises StoreUnavailable: the store did not answer.
        :raises ConfigError: the store is memory that the server's processes do not share.
        """
        self._check_processes(state)
        over, rules = Loaded({}, slide=slide), self._overrides.settings.rules
        unknown: list[Verified] = []
        known = transport.verified(state.app, state.request, name)
        for verified in known:
            answer = self._overrides.store.load(verified.sid.key, rules, slide=slide)
            found = self._found(state, verified, answer, slide=slide)
            if found.stored is not None:
                return found
            if not found.is_known:
                unknown.append(verified)
            ended, is_known = over.ended or found.ended, over.is_known or found.is_known
            suspect = over.suspect or found.suspect
            first = over if over.dead is not None else found
            over = first._replace(ended=ended, is_known=is_known, suspect=suspect)
        if self._adoption is not None and over.suspect is None:
            over = self._adopted(self._adoption, state, name, unknown, over)
            if over.stored is not None:
                return over
        if over.suspect is not None and self._judge(state, over.suspect):
            over = over._replace(ended=over.ended or Reason.REPLAYED)
        if not over.is_known:
            values = partial(transport.values, state.request, name)
            collisions.watch(state.app, state.request, values, verified=bool(known))
        return over if over.dead is None else self._stand_in(state, over, over.dead)

    def _adopted(
        self, adoption: Adoption, state: State, name: str, unknown: list[Verified], over: Loaded
    ) -> Loaded:
        """Returns the session for an old cookie; *over* if there is none.

        An old cookie whose session has ended here is a dead ID, as a cookie of ours would be.
        """
        values, slide = transport.values(state.request, name), over.slide
        found = adoption.find(state, values, unknown, slide=slide)
        if found is None:
            return over
        loaded = self._found(state, *found, slide=slide)
        if loaded.stored is not None:
            state.forced = True  # the cookie is set with a commit
            return loaded
        return loaded if over.dead is None or not over.is_known else over

    def _check_processes(self, state: State) -> None:
        """Refuse memory as the store of a server with several processes, which do not share it."""
        settings, is_single = self._overrides.settings, not state.request.environ.get(_MULTIPROCESS)
        if is_single or self._overrides.store.shared or settings.per_process:
            return
        given = settings.store if isinstance(settings.store, str) else MEMORY_URL
        problem = (
            "this server runs several processes, and SAFESESSION_STORE keeps sessions in the memory"
            f" of each: set it to {SQLITE_URL!r} (one machine) or to the URL of a server; or to"
            f" {given + PER_PROCESS!r} if each process may have its own sessions"
        )
        raise ConfigError([problem], "Sessions cannot be used")

    def _found(
        self, state: State, verified: Verified, answer: base.Live | base.Gone, *, slide: bool
    ) -> Loaded:
        """Returns the session of one cookie, from the store's *answer*."""
        sid = verified.sid
        if isinstance(answer, base.Gone):
            self._report_end(state, sid.key, answer)
            return Loaded(
                {},
                dead=sid,
                slide=slide,
                ended=answer.reason_for_visitor,
                is_known=answer.reason != Reason.UNKNOWN,
                rotated=answer.has_tombstone and answer.reason == Reason.ROTATED,
                onward=(answer.successor, answer.user),
            )
        try:
            record, note, who, data = self._read(state, sid.key, answer)
        except ValueError:
            return Loaded({}, dead=sid, slide=slide, is_known=True)
        age, grace = answer.now - record.created, self._overrides.settings.renew_grace
        secret = notes.judge(note, sid.secret_digest(), age, grace)
        stored = Stored(sid.key, record, note, who, sid, secret=secret)
        if secret not in GOOD and not _is_resolved(state, sid.key):
            suspect = Suspect(stored, secret, age)
            return Loaded({}, dead=sid, slide=slide, is_known=True, suspect=suspect)
        _resolve(state, sid.key)
        return Loaded(data, stored, stale=not verified.current, slide=slide, now=answer.now)

    def _stand_in(self, state: State, over: Loaded, dead: SessionID) -> Loaded:
        """Returns the stand-in of a dead ID: the stored one, or a new one."""
        store, rules = self._overrides.store, self._overrides.settings.rules
        for number in range(MAX_STAND_INS):
            key = own = dead.stand_in(number)
            answer = store.load(key, rules, slide=over.slide)
            found = over._replace(stand_in=number)
            if isinstance(answer, base.Gone):
                self._report_end(state, key, answer)
                if not answer.has_tombstone and answer.reason != Reason.CORRUPT:
                    return found
                if (key := answer.successor) and not answer.user:
                    # It got an ID of its own; the response may be lost or on its way.
                    answer = store.load(key, rules, slide=over.slide)
            if isinstance(answer, base.Live):
                with suppress(ValueError):
                    record, note, who, data = self._read(state, key, answer)
                    stored = Stored(key, record, note, who, stand_in=key == own)
                    return found._replace(data=data, stored=stored, now=answer.now)
        return over._replace(stand_in=MAX_STAND_INS)

    def _read(
        self, state: State, key: str, answer: base.Live
    ) -> tuple[Record, Note, Identity, dict[Any, Any]]:
        """Returns the record under *key*, filed as its data says, with its note, user and data.

        :raises ValueError: the record cannot be read.
        """
        record = answer.record
        try:
            note, data = notes.loads(record.note), decode(record.payload)
        except ValueError:
            self._report_corrupt(state, key, record.tier)
            raise
        who = whose(data, self._overrides.settings)
        if who.refused:
            self._say("user", f"{who.refused}. It counts as no user")
        if not who.failed and (who.user_tag, tier_tag(who.tier)) != (record.user, record.tier):
            record = self._refile(key, record, who, note)
        return record, note, who, data

    def _refile(self, key: str, record: Record, who: Identity, note: Note) -> Record:
        """File a record under the user and tier that the settings now find in it.

        This is bookkeeping: if it fails, the next load tries again.
        """
        idle, lifetime, extended = self._overrides.settings.rules.policy.granted(who.tier, note.own)
        filed = (tier_tag(who.tier), who.user_tag)
        draft = Draft(new_stamp(), idle, lifetime, *filed, b"", extended=extended)
        with suppress(StoreUnavailable):
            answer = self._overrides.store.refile(key, draft, record.stamps[0])
            if isinstance(answer, base.Live):
                return answer.record
        return record

    def _judge(self, state: State, suspect: Suspect) -> bool:
        """Note that a replaced secret was used, or end the session as stolen.

        Returns whether to show the end to the visitor. Only called if the browser has no better
        cookie: it may keep an old one for another path. Sockets change nothing: they keep using the
        cookie of their handshake.
        """
        stored, secret, age = suspect
        if not state.dispatched or transport.is_socket(state.request):
            return False
        if secret is Secret.REPLACED:
            self._note_strike(stored, max(1, age))
        if secret is not Secret.REPLACED_AGAIN:
            return False
        is_ended = end_stolen(state, self._overrides.settings, self._overrides.store, stored.key)
        return is_ended and stored.record.user != NO_USER

    def _note_strike(self, stored: Stored, age: int) -> None:
        """Note that a replaced secret was used. If that fails, nothing is reported."""
        note, record, commit = stored.note, stored.record, self._overrides.store.commit
        with suppress(StoreUnavailable, ValueError):
            for _ in range(_TRIES):
                draft = _same(record, note._replace(strike=age))
                answer = commit(stored.key, draft, record.stamps[0], touch=None)
                if not isinstance(answer, base.Conflict):
                    return
                record, note = answer.record, notes.loads(answer.record.note)

    def _report_end(self, state: State, key: str, answer: base.Gone) -> None:
        if answer.reason == Reason.CORRUPT:
            self._report_corrupt(state, key, answer.tier)
        else:
            report_due(state, self._overrides.settings, key, answer)

    def _report_corrupt(self, state: State, key: str, tier: str) -> None:
        """Report a corrupt record once: it stays until it is due, and each use loads it."""
        if key not in self._corrupt:
            self._corrupt[key] = None
            if len(self._corrupt) > _REPORTED:
                self._corrupt.popitem(last=False)
            report_end(state, self._overrides.settings, key, Reason.CORRUPT, tier)


def _is_resolved(state: State, key: str) -> bool:
    """Whether the handshake of this socket resolved to the session under *key*."""
    return not state.dispatched and state.request.environ.get(_SOCKET_KEY) == key


def _resolve(state: State, key: str) -> None:
    """Keep the key of a socket's session for its later events."""
    if not state.dispatched:
        state.request.environ[_SOCKET_KEY] = key


def _same(record: Record, note: Note) -> Draft:
    """Returns a draft of *record* with another note."""
    return Draft(
        new_stamp(),
        record.idle,
        record.absolute - record.created,
        record.tier,
        record.user,
        record.payload,
        notes.dumps(note),
        extended=record.extended,
    )
