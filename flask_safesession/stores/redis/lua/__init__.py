"""The Lua scripts, put together of the files in this folder.

Each file has its protocol in a comment at the top. All that a script touches is in one slot.
"""

from __future__ import annotations

import hashlib
from importlib import resources


class Script:
    """A Lua script and the digest that the server stores it under.

    :param parts: names of files, concatenated.
    """

    def __init__(self, *parts: str) -> None:
        folder = resources.files(__package__)
        self.text: str = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)
        self.sha: str = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


LOAD = Script("load", "_common", "slide")
COMMIT = Script("commit", "_common", "recommit")
REFILE = Script("_common", "refile")
END = Script("_common", "end")
CREATE = Script("_common", "_admission", "create")
ROTATE = Script("_common", "_admission", "rotate")
ADOPT = Script("_common", "_admission", "_adoption", "adopt")
ADOPTION = Script("_common", "_adoption", "adoption")
PURGE = Script("_common", "_admission", "purge")
COUNT = Script("_common", "count")
PEEK = Script("_common", "peek")
USER = Script("_common", "user")
PAGE = Script("_common", "page")
END_ALL = Script("_common", "end_all")
AUDIT = Script("_common", "audit")
DOCUMENT = Script("_common", "document")
LEASE = Script("_common", "lease")
