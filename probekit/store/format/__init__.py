"""What lies where on disk: names, types, axes, records, checksums.

Knows the page that writer and reader both lean on, what of a file may be believed, and how the
system's own errors are told.

Its door: `schema`, `dataset_in` and its like, `HDF5Out`, `FileRecord`, `read_record`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
