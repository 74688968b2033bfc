"""Sessions on Redis or Valkey."""

from .shards import open_shards
from .store import RedisStore

__all__ = ["RedisStore", "open_shards"]
