"""The mapping that views see, on top of :mod:`.state`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from copy import deepcopy
from typing import Any, Self

import flask
from flask.sessions import SessionMixin

from ..model.policy import OwnLimits, milliseconds, spelled
from .data import PERMANENT, REMEMBER, is_permanent
from .info import SessionInfo
from .state import State

# Flask-Login looks for this key after every response. It never outlives a request, so a session
# that was not loaded does not have it.
_EPHEMERAL = frozenset({REMEMBER})
_MISSING = object()


class Session(SessionMixin):
    """A session that loads its data from the store at its first use."""

    def __init__(self, state: State) -> None:
        self._state = state

    # -- the mapping ----------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        return self._state.use()[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the value of *key*, or *default*."""
        if self._state.data is None and key in _EPHEMERAL:
            return default
        return self._state.use().get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        self._state.assign(key, value)

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def __contains__(self, key: object) -> bool:
        if self._state.data is None and key in _EPHEMERAL:
            return False
        return key in self._state.use()

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.use())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.copy())

    def __len__(self) -> int:
        return len(self._state.use())

    def __or__(self, other: Any) -> Any:
        return self.copy() | dict(other) if isinstance(other, MutableMapping) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return dict(other) | self.copy() if isinstance(other, MutableMapping) else NotImplemented

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def copy(self) -> dict[str, Any]:
        """Returns a plain dict with the same items."""
        return dict(self._state.use())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return deepcopy(self.copy(), memo)

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove *key*. Returns its value, or *default* if it is missing.

        :raises KeyError: the key is missing, and there is no *default*.
        """
        data = self._state.use()
        if key in data:
            data = self._state.change()
        return data.pop(key) if default is _MISSING else data.pop(key, default)

    def popitem(self) -> tuple[str, Any]:
        """Remove the last added key. Returns the key and its value."""
        if not self._state.use():
            raise KeyError("popitem(): the session is empty")
        return self._state.change().popitem()

    def clear(self) -> None:
        """End this session, whatever else is in flight. Later writes start a new one."""
        self._state.clear()

    def __repr__(self) -> str:
        # Debuggers and tracebacks call this: it must not show the ID or call the store.
        data = self._state.data
        return "<Session not loaded>" if data is None else f"<Session {data!r}>"

    # -- read by Flask --------------------------------------------------------------------------

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser. Assigning it does not load the session."""
        state = self._state
        if state.data is None and state.permanent is not None:
            return state.permanent
        return is_permanent(state.use())

    @permanent.setter
    def permanent(self, value: bool) -> None:
        state = self._state
        state.permanent = bool(value)
        if state.data is not None and is_permanent(state.data) != state.permanent:
            state.change()[PERMANENT] = state.permanent

    @property
    def accessed(self) -> bool:
        """Whether this request has read or changed the session."""
        return self._state.data is not None

    @accessed.setter
    def accessed(self, value: bool) -> None:
        """Ignored: Flask sets it at each access, also by this package's own hooks."""

    @property
    def modified(self) -> bool:
        """Whether a key was assigned or removed. Assigning ``True`` forces a write.

        Changes inside values need no mark: they are found when the response is built.
        """
        return self._state.modified

    @modified.setter
    def modified(self, value: bool) -> None:
        state = self._state
        if value:
            state.use()
        else:
            state.changed = state.was_modified = False
        state.forced = value

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether the session is not stored yet."""
        self._state.use()
        return self._state.loaded.stored is None

    # -- extras ---------------------------------------------------------------------------------

    def regenerate(self) -> None:
        """Give the session a new ID when the response is built. Data and age stay."""
        self._state.use()
        self._state.regenerated = True

    def confirm_sign_in(self) -> None:
        """Count this request as a sign-in: its user has just been authenticated again.

        The session gets a new ID when the response is built, and is fresh. Use it in callbacks of
        identity providers, which are GET requests, and wherever the same user is assigned again.

        :raises RuntimeError: the session has no user.
        """
        if self.info.user is None:
            raise RuntimeError("confirm_sign_in() confirms a user: assign the user key before it")
        self._state.confirmed = True

    def expires_in(self, lifetime: Any, *, idle: Any = None) -> None:
        """Give this session limits of its own: for "remember me", or an identity provider's expiry.

        They hold until a sign-in or a logout, and are cut to what the settings allow: without
        ``SAFESESSION_LONGEST_LIFETIME`` that is the limits of the session's tier, since a view
        must not overrule an operator's timeout. The cookie becomes permanent and lasts as long;
        assign ``session.permanent = False`` afterwards if it should end with the browser.

        :param lifetime: how long from now the session may last, whatever the use; a duration, as
            in the settings. A number is seconds: ``claims["exp"] - time.time()``.
        :param idle: the longest time without use. ``None``: that of the tier; or as long as
            *lifetime*, if that is longer than the lifetime of the tier.
        :raises ValueError: one of them is not a duration, or the idle time is longer than the
            lifetime or not longer than the touch interval.
        """
        own = OwnLimits(
            _duration("lifetime", lifetime), 0 if idle is None else _duration("idle", idle)
        )
        if own.idle > own.lifetime:
            raise ValueError(
                f"expires_in(): idle is {idle!r}, longer than the lifetime, {lifetime!r}"
            )
        self._state.use()
        touch = self._state.host.limits(self._state).touch
        if own.idle and own.idle <= touch:
            raise ValueError(
                f"expires_in(): idle is {idle!r}: it must be longer than the touch interval"
                f" ({spelled(touch)}), otherwise use would not keep the session alive"
            )
        self._state.own_limits, self.permanent = own, True

    def invalidate(self) -> None:
        """End the session, whatever else is in flight, and forget its data."""
        self.clear()

    def end_others(self) -> int:
        """End all other sessions of this session's user. Returns how many it ended.

        :raises StoreUnavailable: the store did not answer.
        """
        self._state.use()
        return self._state.host.end_others(self._state)

    @property
    def info(self) -> SessionInfo:
        """User, tier, handle and times of this session."""
        self._state.use()
        return self._state.host.describe(self._state)


def _duration(name: str, value: object) -> int:
    """Returns a duration in milliseconds.

    :raises ValueError: in the words of the caller of ``expires_in()``.
    """
    try:
        return milliseconds(value)
    except ValueError as error:
        raise ValueError(
            f"expires_in(): {name} is {value!r}: {error}; it is counted from now"
        ) from None


def state_of(session: Session) -> State:
    """Returns the state of *session*."""
    return session._state


# Bound once: it is called several times per request, even if no view uses the session.
_current: Callable[[], Any] = flask.session._get_current_object  # type: ignore[attr-defined]


def current_state() -> State | None:
    """Returns the state of the current session; ``None`` if another extension opened it.

    :raises RuntimeError: there is no request.
    """
    session = _current()
    return session._state if isinstance(session, Session) else None


def is_current(state: State) -> bool:
    """Whether *state* belongs to the current request's session."""
    return flask.has_request_context() and current_state() is state
