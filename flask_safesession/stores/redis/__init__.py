"""Sessions on Redis or Valkey."""

from .store import RedisStore, open_shards

__all__ = ["RedisStore", "open_shards"]
