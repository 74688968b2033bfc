"""The contract of stores, put together from its parts."""

from .adoption import AdoptionContract
from .extended import ExtendedContract
from .many import ManySessionsContract
from .overrides import OverridesContract
from .repeating import RepeatedCallsContract
from .single import SingleSessionContract
from .users import UsersContract


class StoreContract(
    SingleSessionContract,
    ManySessionsContract,
    UsersContract,
    OverridesContract,
    ExtendedContract,
    RepeatedCallsContract,
    AdoptionContract,
):
    """What every store does, as tests. Subclass it and give it a fixture ``kit``.

    ``kit`` returns a :class:`StoreKit` with an empty store.
    """
