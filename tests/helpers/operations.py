"""Which operations PyTorch runs in a block, forward and backward."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class RecordedOperations(TorchDispatchMode):
    """Collects the names of operations; indexing by a mask, whose size only the device knows, is `index_by_mask`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name == "index" else ()
        by_mask = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
        self.names.append("index_by_mask" if by_mask else name)
        return func(*args, **(kwargs or {}))
