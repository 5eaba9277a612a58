"""What can go wrong in the lake. Every message names the file or partition and what to do next."""

from __future__ import annotations


class LakeError(Exception):
    """The lake could not do what was asked; what it held before is unchanged."""


class CorruptPartition(LakeError):
    """A file of the lake is missing, torn or not what its manifest promises (the file is named)."""


class PartitionMissing(LakeError):
    """The lake holds no rows for the asked session and symbol, or not in the asked version."""


class HotConflict(LakeError):
    """A bar already stored for this close was offered again with other values."""


class LakeWriteFailed(LakeError):
    """The storage refused a write (disk full, no permission, unreachable); the old version stays."""


class StorageFailed(LakeError, OSError):
    """The object store refused a call or cannot be reached; nothing is known to be wrong with what it holds."""

    def __init__(self, text: str, code: str = "") -> None:
        """code: what the store said, where it said anything."""
        super().__init__(text)
        self.code = code


class WriteRaced(LakeWriteFailed):
    """Another writer committed this period in between: read it again and repeat."""
