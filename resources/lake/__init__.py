"""The lake: the truth about bars, quotes and features, in Parquet files with a content hash per (session, symbol)."""

from resources.lake.errors import (
    CorruptPartition,
    HotConflict,
    LakeError,
    LakeWriteFailed,
    PartitionMissing,
    StorageFailed,
    WriteRaced,
)
from resources.lake.model import FeatureFrame, Partition, dataset_name
from resources.lake.opening import open_lake
from resources.lake.store import Lake

__all__ = [
    "CorruptPartition",
    "FeatureFrame",
    "HotConflict",
    "Lake",
    "LakeError",
    "LakeWriteFailed",
    "Partition",
    "PartitionMissing",
    "StorageFailed",
    "WriteRaced",
    "dataset_name",
    "open_lake",
]
