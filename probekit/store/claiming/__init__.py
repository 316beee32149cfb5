"""Who of many workers does what in a run's folder: each claims a piece, and says that it lives.

Knows files under `claims/`, hosts and processes; nothing of what the pieces are. A claim decides
who works, so that little is done twice; what is in the trace is decided where a shard is published,
which happens once. A claim that was lost or broken therefore costs time, and no byte.

It rests on three things that local disks and shared file systems (NFS, Lustre, GPFS) have: a hard
link is made or refused at once, a rename moves a file once, and who opens a file after another has
closed it sees what that one wrote. Clocks and file times of two hosts are never compared.

Its door: `Claims`, `Watch`, `beats_of`, `claims_of`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
