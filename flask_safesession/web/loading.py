"""What a request's cookies lead to: a session, one that stands in for it, or none.

Secrets are judged here. Records are filed anew here, where the settings now find another user or
tier in them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from flask import Flask, Request

from ..config.overrides import Steering
from ..config.settings import MEMORY_URL, PER_PROCESS, SQLITE_URL, Settings
from ..errors import ConfigError, StoreUnavailable
from ..events import SessionEnded
from ..model import note as notes
from ..model.codec import decode
from ..model.note import GOOD, Note, Secret
from ..model.record import Draft, Record
from ..model.tokens import NO_USER, SessionID, Verified, new_stamp, tier_tag
from ..stores.base import CORRUPT, REPLAYED, ROTATED, UNKNOWN, Conflict, Gone, Live, Store
from . import collisions, transport
from .change import whose
from .saving import MAX_STAND_INS, end_stolen, ends
from .session import Loaded, Session, Stored, Suspect

# Whether the server runs several processes (PEP 3333).
_MULTIPROCESS = "wsgi.multiprocess"
# Where a socket keeps the key of the session that its handshake was served.
_SOCKET_KEY = "flask_safesession.key"
# Corrupt records that were reported by this process: each is reported once.
_REPORTED = 1000
# Tries of noting that a replaced secret came back, should others write at that moment.
_TRIES = 3


class Loader:
    """Finds the session of a request.

    :param steering: has the settings that the app goes by, and its store.
    :param say: logs a message once: its name, and the text.
    """

    def __init__(self, steering: Steering, say: Callable[[str, str], None]) -> None:
        self._steering = steering
        self._say = say
        self._corrupt: OrderedDict[str, None] = OrderedDict()

    @property
    def _settings(self) -> Settings:
        return self._steering.settings

    @property
    def _store(self) -> Store:
        return self._steering.store

    def find(
        self, app: Flask, request: Request, session: Session, name: str, *, slide: bool
    ) -> Loaded:
        """Returns the session behind the cookies of that *name* in *request*.

        :raises StoreUnavailable: the store did not answer.
        :raises ConfigError: the store is memory that the server's processes do not share.
        """
        self._check_processes(request)
        over = Loaded({}, slide=slide)
        known = transport.verified(app, request, name)
        for verified in known:
            found = self._look_up(request, verified, session, slide=slide)
            if found.stored is not None:
                return found
            ended, is_known = over.ended or found.ended, over.is_known or found.is_known
            suspect = over.suspect or found.suspect
            first = over if over.dead is not None else found
            over = first._replace(ended=ended, is_known=is_known, suspect=suspect)
        if over.suspect is not None and self._judge(request, session, over.suspect):
            over = over._replace(ended=over.ended or REPLAYED)
        if not over.is_known:
            values = partial(transport.values, request, name)
            collisions.watch(app, request, values, verified=bool(known))
        return over if over.dead is None else self._stand_in(over, over.dead, session)

    def _check_processes(self, request: Request) -> None:
        """Refuse memory where several processes serve one visitor in turn: each has its own."""
        settings = self._settings
        if self._store.shared or settings.per_process or not request.environ.get(_MULTIPROCESS):
            return
        given = settings.store if isinstance(settings.store, str) else MEMORY_URL
        problem = (
            "this server runs several processes, and SAFESESSION_STORE keeps sessions in the memory"
            f" of each: set it to {SQLITE_URL!r} (one machine) or to a redis:// URL; or to"
            f" {given + PER_PROCESS!r} if each process may have sessions of its own"
        )
        raise ConfigError([problem], "Sessions cannot be used")

    def _look_up(
        self, request: Request, verified: Verified, session: Session, *, slide: bool
    ) -> Loaded:
        sid = verified.sid
        over = Loaded({}, dead=sid, slide=slide)
        answer = self._store.load(sid.key, self._settings.rules, slide=slide)
        if isinstance(answer, Gone):
            self._report_end(session, sid.key, answer)
            return over._replace(
                ended=answer.to_be_told,
                is_known=answer.reason != UNKNOWN,
                rotated=answer.buried and answer.reason == ROTATED,
                onward=(answer.successor, answer.user),
            )
        over = over._replace(is_known=True)
        try:
            stored, data = self._read(session, sid.key, answer)
        except ValueError:
            return over
        age, grace = answer.now - stored.record.created, self._settings.renew_grace
        secret = notes.judge(stored.note, sid.secret_digest(), age, grace)
        if secret not in GOOD and not _is_resolved(request, session, sid.key):
            return over._replace(suspect=Suspect(stored, secret, age))
        _resolve(request, session, sid.key)
        return Loaded(
            data,
            stored._replace(sid=sid, secret=secret),
            stale=not verified.current,
            slide=slide,
            now=answer.now,
        )

    def _stand_in(self, over: Loaded, dead: SessionID, session: Session) -> Loaded:
        """The session that stands in for an ID that is over; new, if there is none yet."""
        for number in range(MAX_STAND_INS):
            key = dead.stand_in(number)
            answer = self._store.load(key, self._settings.rules, slide=over.slide)
            found = over._replace(stand_in=number)
            if isinstance(answer, Gone):
                self._report_end(session, key, answer)
                if not answer.buried:
                    return found
                if (key := answer.successor) and not answer.user:
                    # It has an ID of its own, whose response may be lost or on its way.
                    answer = self._store.load(key, self._settings.rules, slide=over.slide)
            if isinstance(answer, Live):
                with suppress(ValueError):
                    stored, data = self._read(session, key, answer)
                    stored = stored._replace(stand_in=key == dead.stand_in(number))
                    return found._replace(data=data, stored=stored, now=answer.now)
        return over._replace(stand_in=MAX_STAND_INS)

    def _read(self, session: Session, key: str, answer: Live) -> tuple[Stored, dict[Any, Any]]:
        """What is stored under *key*, filed as its data says, and these data.

        :raises ValueError: it cannot be read.
        """
        record = answer.record
        try:
            note, data = notes.loads(record.note), decode(record.payload)
        except ValueError:
            tier = self._settings.rules.policy.name_of(record.tier)
            self._report_corrupt(session, key, tier)
            raise
        who = whose(data, self._settings)
        if who.refused:
            self._say("user", f"{who.refused}. It counts as no user")
        if not who.failed and (who.user_tag, tier_tag(who.tier)) != (record.user, record.tier):
            record = self._refile(key, record, who.user_tag, who.tier)
        return Stored(key, record, note, who), data

    def _refile(self, key: str, record: Record, user: str, tier: str) -> Record:
        """File a session anew whose user or tier was read otherwise when it was stored.

        It is bookkeeping: where it cannot be done now, the next load tries again.
        """
        limits = self._settings.rules.policy.limits(tier)
        draft = Draft(new_stamp(), limits.idle, limits.lifetime, tier_tag(tier), user, b"")
        with suppress(StoreUnavailable):
            answer = self._store.refile(key, draft, record.stamps[0])
            if isinstance(answer, Live):
                return answer.record
        return record

    def _judge(self, request: Request, session: Session, suspect: Suspect) -> bool:
        """A replaced secret came back: note it, or end the session; whether its visitor is shown.

        Only where the browser has no better cookie: it may keep an old one for another path.
        Sockets judge nobody: their handshake's cookie stays as it was.
        """
        stored, secret, age = suspect
        if not session._dispatched or transport.is_socket(request):
            return False
        if secret is Secret.REPLACED:
            self._note_strike(stored, max(1, age))
        if secret is not Secret.REPLACED_AGAIN:
            return False
        events = list(end_stolen(self._store, self._settings, stored.key))
        for event in events:
            session._note(event)
        return bool(events) and stored.record.user != NO_USER

    def _note_strike(self, stored: Stored, age: int) -> None:
        """Note that a replaced secret came back; if that cannot be, nobody is reported."""
        note, record = stored.note, stored.record
        with suppress(StoreUnavailable, ValueError):
            for _ in range(_TRIES):
                draft = _same(record, note._replace(strike=age))
                answer = self._store.commit(stored.key, draft, record.stamps[0], touch=None)
                if not isinstance(answer, Conflict):
                    return
                record, note = answer.record, notes.loads(answer.record.note)

    def _report_end(self, session: Session, key: str, answer: Gone) -> None:
        if answer.reason == CORRUPT:
            self._report_corrupt(session, key, self._settings.rules.policy.name_of(answer.tier))
            return
        for event in ends(key, answer, self._settings):
            session._note(event)

    def _report_corrupt(self, session: Session, key: str, tier: str) -> None:
        """Report once what cannot be read: it stays until it is due, and is met at every use."""
        if key not in self._corrupt:
            self._corrupt[key] = None
            if len(self._corrupt) > _REPORTED:
                self._corrupt.popitem(last=False)
            session._note(SessionEnded(key, CORRUPT, tier))


def _is_resolved(request: Request, session: Session, key: str) -> bool:
    """Whether the handshake of this socket was served that session."""
    return not session._dispatched and request.environ.get(_SOCKET_KEY) == key


def _resolve(request: Request, session: Session, key: str) -> None:
    """Let later events of a socket have the session that its handshake's cookie led to."""
    if not session._dispatched:
        request.environ[_SOCKET_KEY] = key


def _same(record: Record, note: Note) -> Draft:
    """*record* once more, with another note."""
    return Draft(
        new_stamp(),
        record.idle,
        record.absolute - record.created,
        record.tier,
        record.user,
        record.payload,
        notes.dumps(note),
    )
