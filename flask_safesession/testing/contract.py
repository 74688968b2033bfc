"""The contract of stores, put together from its parts."""

from .adoption import AdoptionContract
from .end_all import EndAllContract
from .extended import ExtendedContract
from .many import ManySessionsContract
from .moves import MovesContract
from .overrides import OverridesContract
from .removal import RemovalContract
from .repeating import RepeatedCallsContract
from .single import SingleSessionContract
from .tables import TablesContract
from .users import UsersContract


class StoreContract(
    SingleSessionContract,
    MovesContract,
    ManySessionsContract,
    RemovalContract,
    UsersContract,
    EndAllContract,
    OverridesContract,
    ExtendedContract,
    RepeatedCallsContract,
    AdoptionContract,
    TablesContract,
):
    """What every store does, as tests. Subclass it and give it a fixture ``kit``.

    ``kit`` returns a :class:`StoreKit` with an empty store.
    """
