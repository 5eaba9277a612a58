"""What can go wrong in the lake. Every message names the file or partition and what to do next."""

from __future__ import annotations


class LakeError(Exception):
    """The lake could not do what was asked; what it held before is unchanged."""


class CorruptPartition(LakeError):
    """A file of the lake is missing, torn or not what its manifest promises (the file is named)."""


class PartitionMissing(LakeError):
    """The lake holds no rows for the asked session and symbol."""


class HotConflict(LakeError):
    """A bar already stored for this close was offered again with other values."""


class LakeWriteFailed(LakeError):
    """The operating system refused a write (disk full, no permission); the old version stays."""
