"""torch's reader of distributed checkpoints, for folders that may come from strangers.

Their metadata are a pickle, which may name any function; here they may name tensors' descriptions.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta


class Reader(FileSystemReader):
    """torch's reader, whose metadata may hold tensors' descriptions alone."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read what the files hold; called by torch, with whatever its version passes."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    """Reads what torch writes about tensors and nothing else: a pickle may name any function."""

    _ALLOWED: Mapping[str, tuple[str, ...]] = {
        "torch.distributed.checkpoint.metadata": (
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        ),
        "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
        "torch.serialization": ("_get_layout",),
        "torch": ("Size",),
        "pathlib": ("Path", "PosixPath"),
        "pathlib._local": ("Path", "PosixPath"),
    }

    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or name in self._ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"`{module}.{name}` has no place in a checkpoint's metadata")
