"""Sessions on Memcached, which has no transactions, no lists and no command for the time.

A session is one item. It is made by ``add``, and changed and ended by compare-and-set, which leaves
a tombstone under its key: a session that has ended cannot be written again. A user's session is
live only while its key stands in the item of that user, so that one compare-and-set ends all
sessions of a user, and counts them exactly. An *epoch* item on each server has the generation of
:meth:`..base.Store.end_all`. What can go wrong:

- *Two requests change one session.* One compare-and-set wins; the other request reads again.
- *A rotation* has four steps: add the new session, marked as provisional; enter its key in the item
  of its user; replace the old session by a tombstone, which is the decision; remove the mark. A
  crash before the decision leaves the old session. After it, the next use of the new one within a
  minute completes the rotation: never are both live, but the visitor may have to sign in again.
- *A user's sessions end during a rotation.* It completes only if the old key still stands in the
  item of the old user.
- *A reply is lost.* The operation begins again with reading, and recognises its own stamp. A token
  for compare-and-set is used only on the connection that it was read on: after a restart, a server
  counts from the beginning.
- *An item is evicted.* Without a session's item, that session is over; without the item of a user,
  all of that user's; without the epoch, all sessions of the server: the next epoch has a random
  name, and sessions carry the name of theirs. A lost tombstone costs a reason, since keys are never
  used again. Nobody is ever signed in by an eviction.
- *A server restarts, or ``flush_all``.* It is empty, and everybody there is signed out.
- *One of several servers is down.* A session's server follows from the first letter of its key and
  never changes, so that its sessions are unavailable (503) until it is back. Taking another server
  would sign visitors out, and bring ended sessions back later. The epoch has the server's number
  and that of all servers: a process with another list is refused.
- *A fork.* The child closes its copies of the connections and makes its own. A connection serves
  one operation of one thread or greenlet at a time.

Time: an epoch says at which time it expires, and the server how many seconds are left: the
difference is the store's time, in whole seconds, on each server its own. Times of a record count in
it; a worker's clock decides nothing. Each renewal of the epoch, every two weeks, may set the clock
back by the second that it takes.
"""
