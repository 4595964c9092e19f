"""A least recently used cache that is limited in bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """Keeps the values used last, up to `limit_mb`; the newest stays even if it alone is larger."""

    def __init__(self, limit_mb: int | float, count_bytes: Callable[[Value], int]) -> None:
        self._limit_bytes = limit_mb * 2**20
        self._count_bytes = count_bytes
        self._total_bytes = 0
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, compute: Callable[[], Value]) -> Value:
        """Return the value of `key`, computed if it is not in the cache."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = compute()
        self._total_bytes += self._count_bytes(value)
        while self._total_bytes > self._limit_bytes and len(self._values) > 1:
            self._total_bytes -= self._count_bytes(self._values.popitem(last=False)[1])
        return value
