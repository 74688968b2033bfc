"""Looks at an idle connection before it is used again."""

from __future__ import annotations

import select
from typing import Any


def is_stale(connection: Any) -> bool:
    """Returns whether the server has closed it, or has sent what no call asked for.

    :param connection: a socket, or its number.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
