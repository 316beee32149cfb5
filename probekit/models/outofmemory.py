"""Memory: tell a device that is too small from code that fails.

Knows what torch raises; nothing of models or batches.
"""

from __future__ import annotations

import torch

_TOO_SMALL = (  # in RuntimeErrors
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "_STATUS_ALLOC_FAILED",  # of cuBLAS, cuDNN, cuSOLVER, cuSPARSE and cuFFT
    "when calling `cublasCreate",  # its handle takes memory, and says it is "not initialized"
)


def out_of_memory(error: Exception) -> bool:
    """Say whether an error means that a device has too little memory."""
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _TOO_SMALL)
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)
