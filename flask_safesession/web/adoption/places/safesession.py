"""A store of SafeSession's own: another one, or with another prefix or number of shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from flask import Flask

from ....config.settings import Settings
from ....model import note as notes
from ....model.codec import decode
from ....model.note import GOOD
from ....model.reason import Reason
from ....model.tokens import Verified, new_stamp
from ....stores.base import Gone
from ....stores.opening import Opened
from .base import Credential, Old, named


class SafeSessionPlace:
    """Sessions in an older store. They keep creation, last use, and limits of the current settings.

    :param settings: returns the current settings.
    """

    def __init__(self, name: str, opened: Opened, settings: Callable[[], Settings]) -> None:
        self.name: str = name
        self._opened = opened
        self._settings = settings

    def credentials(
        self, app: Flask, foreign: Sequence[str], ours: Sequence[Verified]
    ) -> Iterable[Credential]:
        """See :meth:`.base.Place.credentials`. Renewals of an ID share its link."""
        del app, foreign
        return [Credential(verified.sid.series, verified.sid) for verified in ours]

    def read(self, credential: Credential) -> Old | None:
        """See :meth:`.base.Place.read`. A replaced secret finds nothing."""
        if (sid := credential.sid) is None:
            return None
        settings = self._settings()
        with named(self.name):
            answer = self._opened.store.load(sid.key, settings.rules, slide=False)
        if isinstance(answer, Gone):
            return None
        record = answer.record
        with suppress(ValueError):
            note, data = notes.loads(record.note), decode(record.payload)
            age, grace = answer.now - record.created, settings.renew_grace
            if notes.judge(note, sid.secret_digest(), age, grace) in GOOD:
                return Old(data, record.created, record.last_active, record.stamps[0], note.own)
        return None

    def delete(self, credential: Credential, old: Old) -> None:
        """See :meth:`.base.Place.delete`. A session that was changed meanwhile stays."""
        if credential.sid is not None:
            self._opened.store.end(credential.sid.key, new_stamp(), Reason.ROTATED, old.token)

    def count(self, most: int) -> int | None:
        """See :meth:`.base.Place.count`."""
        index = self._opened.index
        with named(self.name):
            return None if index is None else min(most, index.count(self._settings().rules).total)
