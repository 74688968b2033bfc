"""Real SQL servers for the tests: on free ports and Unix sockets, in folders of their own.

Unless one is ``durable``, it does not wait for a disk. What was committed survives ``kill`` all the
same: it has reached the operating system, which goes on. Only a machine that fails would lose it.
"""

from ._mysql import start_mysql
from ._postgresql import start_postgresql
from ._server import Database, connect, given

__all__ = ["Database", "connect", "given", "start_mysql", "start_postgresql"]
