"""Records whose attributes can be read as keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Keyed:
    """Attributes that can be read as keys, too: ``result["fun"]``, ``"fun" in result``, ``dict(result)``."""

    def keys(self) -> list[str]:
        """Returns the names of the fields, those of a dataclass unless a subclass says otherwise."""
        return list(self.__dataclass_fields__)  # type: ignore[attr-defined]

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(f"There is no field {name!r}; there are {', '.join(self.keys()) or 'none yet'}.")
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())
