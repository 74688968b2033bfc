"""The mapping that views see, what it remembers of a request, and how two requests' changes merge.

A session has looked at nothing until it is first used; then it asks its loader, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from copy import deepcopy
from threading import RLock
from typing import Any, NamedTuple, Self

from flask.sessions import SessionMixin

from ..events import Event, logger
from ..model.codec import decode, encode_value
from ..model.identity import FLASK_LOGIN, FRESH, FS_PAA, Identity
from ..model.note import Note, Secret
from ..model.record import Record
from ..model.tokens import SessionID
from .info import SessionInfo
from .scratch import PERMANENT, REMEMBER, Scratch

# Flask-Login asks for this after every response. It is set and taken out within one request, so
# that a session that was not loaded does not have it.
_EPHEMERAL = frozenset({REMEMBER})
_MISSING = object()
#: What Flask and its extensions keep for a page: showing the last of it ends nothing.
FLASHES = "_flashes"


class Stored(NamedTuple):
    """A session that is in the store.

    :param note: its record's note.
    :param who: whose it is by its stored data.
    :param sid: the ID that the browser has; ``None``: no cookie of this request may be set again.
    :param stand_in: it stands in for an ID that is over.
    :param secret: what the secret of the browser's ID may do; ``None`` with no ID.
    """

    key: str
    record: Record
    note: Note
    who: Identity
    sid: SessionID | None = None
    stand_in: bool = False
    secret: Secret | None = None


class Suspect(NamedTuple):
    """A live session of which the cookie has a replaced secret, *age* milliseconds old."""

    stored: Stored
    secret: Secret
    age: int


class Loaded(NamedTuple):
    """What the loader found behind the cookie.

    :param data: the record's data, decoded: this request's own copy.
    :param stored: the live session, or ``None``.
    :param dead: the cookie's ID, if its session is over: what is written stands in for it.
    :param stand_in: how many stand-ins of that ID have ended, too.
    :param is_known: the store has, or remembers, the session of the cookie's ID.
    :param rotated: the cookie's session went on under another ID.
    :param onward: the key under which it went on, and the tag of its user.
    :param suspect: the live session of which the cookie has a replaced secret.
    :param stale: the cookie was signed with a fallback key.
    :param slide: using it restarts its idle time: the view is not passive.
    :param now: the store's clock in milliseconds, 0 if it was not asked.
    :param total: sessions in the store, where a save had them counted; else 0.
    :param ended: why the cookie's session has ended, if its visitor should know.
    """

    data: dict[Any, Any]
    stored: Stored | None = None
    dead: SessionID | None = None
    stand_in: int = 0
    is_known: bool = False
    rotated: bool = False
    onward: tuple[str, str] = ("", "")
    suspect: Suspect | None = None
    stale: bool = False
    slide: bool = True
    now: int = 0
    total: int = 0
    ended: str | None = None


class Session(SessionMixin):
    """A session whose data comes from the store at first use.

    :param load: gives what is behind the cookie; called once at most.
    :param describe: gives :class:`SessionInfo` for the session as it is now.
    :param user_keys: top-level keys that may hold the user.
    :param end_others: ends the other sessions of this one's user, and says how many.
    """

    # What a request has done so far. Class attributes, since most requests change none of them.
    _loaded = Loaded({})
    _data: dict[Any, Any] | None = None
    _permanent: bool | None = None
    _changed = False
    _forced = False
    _cleared = False
    _regenerated = False
    _confirmed = False
    _signed_in = False
    _unsigned = ""
    _saved = False
    _warned = False
    _was_modified = False
    _failed: Exception | None = None
    _cookie: object = None
    _cookie_line = ""
    _events: tuple[Event, ...] = ()
    # How far Flask is with the request: its own processing has begun; the view of an unsafe method
    # runs; its response is built, and what is saved now is saved for that.
    _dispatched = False
    _in_unsafe_view = False
    _responding = False

    def __init__(
        self,
        load: Callable[[Session], Loaded],
        describe: Callable[[Session], SessionInfo],
        user_keys: tuple[str, ...],
        end_others: Callable[[Session], int] = lambda _: 0,
    ) -> None:
        self._load = load
        self._describe = describe
        self._end_others = end_others
        self._user_keys = user_keys
        self._assigned: set[str] = set()
        # A request may use its session in several threads: one loads, the others wait for it.
        self._loading = RLock()

    # -- loading --------------------------------------------------------------------------------

    def _use(self) -> dict[Any, Any]:
        """The data, loaded now if it is not yet."""
        if self._data is not None:
            return self._data
        with self._loading:
            return self._first_use()

    def _first_use(self) -> dict[Any, Any]:
        if self._data is not None:  # another thread of this request was faster
            return self._data
        try:
            loaded = self._load(self)
        except Exception as error:
            # Said once. From here on the request sees an empty scratch, so that its error page can
            # be drawn, and nothing of it is stored.
            self._failed = error
            self._data = Scratch(error)
            raise
        data = loaded.data
        if self._permanent is not None and bool(data.get(PERMANENT)) != self._permanent:
            data[PERMANENT] = self._permanent
        self._loaded, self._data = loaded, data
        return data

    def _note(self, event: Event) -> None:
        """Keep *event* until the response has its cookie."""
        self._events = (*self._events, event)

    def _rebase(self, loaded: Loaded) -> None:
        """From here on *loaded* is what is stored: a second save finds nothing to do."""
        self._loaded, self._data = loaded, loaded.data
        self._was_modified = self.modified
        self._changed = self._forced = self._cleared = self._regenerated = False
        self._signed_in = self._confirmed = False
        self._assigned.clear()

    def _seal(self) -> None:
        """The response is built: nothing that is written from here on is stored."""
        self._was_modified = self.modified
        self._changed, self._saved = False, True

    def _was_written(self) -> bool:
        """Whether this request meant to change the session, as far as that can be known."""
        if isinstance(self._data, Scratch):
            return self._data.written or self._forced or self._regenerated
        return self._changed

    def _change(self) -> dict[Any, Any]:
        data = self._use()
        self._changed = True
        return data

    def _report_unstored(self) -> None:
        """Warn of a change that no save has stored. The request is over, so none will."""
        refused = self._failed is not None and not isinstance(self._data, Scratch)  # an error page
        if self._saved and self._changed and not refused:
            logger.warning(
                "the session was written after its response was built; the change is not stored."
                " In a streaming view, change the session before the stream begins"
            )

    # -- the mapping ----------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        return self._use()[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of *key*, or *default*."""
        if self._data is None and key in _EPHEMERAL:
            return default
        return self._use().get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        self._change()[key] = value
        self._assigned.add(key)
        if key in self._user_keys:
            # Whether this is a sign-in is decided when the session is saved. What runs before each
            # request assigns the same user again and again.
            self._signed_in = self._signed_in or self._in_unsafe_view
            self._unsigned = "" if self._signed_in else key

    def _is_marked(self) -> bool:
        """Whether the request did more than read, but for changes inside of values."""
        asked = self._forced or self._regenerated or self._cleared or self._confirmed
        return asked or self._changed or bool(self._assigned)

    def _is_confirmed(self) -> bool:
        """Whether the user was asked again: by us, by Flask-Login or by Flask-Security."""
        # Flask-Login's login_user assigns its own key, too, whatever the app calls the user.
        assigned = self._assigned
        fresh = FRESH in assigned and assigned.isdisjoint({*self._user_keys, FLASK_LOGIN})
        confirmed = fresh and self._use().get(FRESH) is True
        return self._confirmed or confirmed or FS_PAA in self._assigned

    def _is_restored(self) -> bool:
        """Whether a remember-me cookie has brought the user back."""
        return FRESH in self._assigned and self._use().get(FRESH) is False

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def __contains__(self, key: object) -> bool:
        if self._data is None and key in _EPHEMERAL:
            return False
        return key in self._use()

    def __iter__(self) -> Iterator[str]:
        return iter(self._use())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.copy())

    def __len__(self) -> int:
        return len(self._use())

    def __or__(self, other: Any) -> Any:
        return self._use() | dict(other) if isinstance(other, MutableMapping) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return dict(other) | self._use() if isinstance(other, MutableMapping) else NotImplemented

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def copy(self) -> dict[str, Any]:
        """A plain dict with the same items."""
        return dict(self._use())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return deepcopy(self.copy(), memo)

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove *key*; its value, or *default* where it is missing.

        :raises KeyError: it is missing, and there is no *default*.
        """
        data = self._use()
        if key in data:
            data = self._change()
        return data.pop(key) if default is _MISSING else data.pop(key, default)

    def popitem(self) -> tuple[str, Any]:
        """Remove the key that was added last; it and its value."""
        if not self._use():
            raise KeyError("popitem(): the session is empty")
        return self._change().popitem()

    def clear(self) -> None:
        """End this session, whatever else is in flight. What is written afterwards is a new one."""
        self._change().clear()
        self._cleared = True
        self._signed_in = self._confirmed = False
        self._assigned.clear()

    def __repr__(self) -> str:
        # Neither the ID nor a store call: this is what debuggers and tracebacks show.
        return "<Session not loaded>" if self._data is None else f"<Session {self._data!r}>"

    # -- what Flask asks for --------------------------------------------------------------------

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser. Assigning it loads nothing."""
        if self._data is None and self._permanent is not None:
            return self._permanent
        return bool(self._use().get(PERMANENT, False))

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self._permanent = bool(value)
        if self._data is not None and bool(self._data.get(PERMANENT)) != self._permanent:
            self._change()[PERMANENT] = self._permanent

    @property
    def accessed(self) -> bool:
        """Whether this request has used the session, if only to read it."""
        return self._data is not None

    @accessed.setter
    def accessed(self, value: bool) -> None:
        """Ignored: Flask sets it whenever the object is reached, also by our own hooks."""

    @property
    def modified(self) -> bool:
        """Whether a key was assigned or removed. Assigning ``True`` forces a write.

        Changes inside values need no mark: they are noticed when the response is built.
        """
        return self._changed or self._forced or self._was_modified

    @modified.setter
    def modified(self, value: bool) -> None:
        if value:
            self._use()
        else:
            self._changed = self._was_modified = False
        self._forced = value

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether the session is not stored yet."""
        self._use()
        return self._loaded.stored is None

    # -- ours -----------------------------------------------------------------------------------

    def regenerate(self) -> None:
        """Give the session a new ID when the response is built; data and age stay."""
        self._use()
        self._regenerated = True

    def confirm_sign_in(self) -> None:
        """Count this request as a sign-in of the session's user, who was authenticated again.

        The session gets a new ID when the response is built, and is fresh. For callbacks of
        identity providers, which are GET requests, and for whatever else assigns the same user.

        :raises RuntimeError: the session has no user.
        """
        if self.info.user is None:
            raise RuntimeError("confirm_sign_in() confirms a user: assign the user key before it")
        self._confirmed = True

    def invalidate(self) -> None:
        """End the session, whatever else is in flight, and forget its data."""
        self.clear()

    def end_others(self) -> int:
        """End all other sessions of this session's user; how many there were.

        :raises StoreUnavailable: the store did not answer.
        """
        self._use()
        return self._end_others(self)

    @property
    def info(self) -> SessionInfo:
        """What is known of this session: user, tier, handle, times."""
        self._use()
        return self._describe(self)


def is_empty(data: dict[Any, Any]) -> bool:
    """Whether there is nothing worth storing: only our own keys count as empty, too."""
    return not data or data.keys() <= {PERMANENT}


def is_permanent(data: dict[Any, Any]) -> bool:
    """Whether the session's cookie is to outlive the browser."""
    return bool(data.get(PERMANENT))


def own_changes(base: bytes, mine: dict[Any, Any]) -> dict[Any, Any]:
    """The keys of *mine* that are not as they were loaded (*base*)."""
    before = _encoded(decode(base)) if base else {}
    return {key: mine[key] for key, value in _encoded(mine).items() if before.get(key) != value}


def merge(base: bytes, mine: dict[Any, Any], theirs: bytes) -> dict[Any, Any]:
    """Two requests' changes to what both had loaded, key by key: mine where I changed, else theirs.

    Values are compared encoded: ``1`` is not ``True``, and NaN is NaN.
    """
    before, here = _encoded(decode(base)) if base else {}, _encoded(mine)
    merged = decode(theirs)
    for key in {**before, **here}:
        if before.get(key) == here.get(key):
            continue
        if key in here:
            merged[key] = mine[key]
        else:
            merged.pop(key, None)
    return merged


def _encoded(data: dict[Any, Any]) -> dict[Any, bytes]:
    return {key: encode_value(value) for key, value in data.items()}
