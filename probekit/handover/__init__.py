"""A trace for other tools: pandas, xarray, safetensors, one plain HDF5 file, torch.

Knows what these tools want; reads rows, computes nothing of them. What needs torch lies in `torch`.

Its door: `frame_of`, `dataset_of`, `write_tensors`, `merge_trace`, `make_batches`, `make_items`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
