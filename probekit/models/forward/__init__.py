"""What happens in one forward pass: calls of modules and of attention kernels, and their tensors.

Knows torch's modules and operations, transformers' attention interface, and how a tensor is
followed to what reads or gave it, also where tensors have no values, and which modules are mixtures
of experts; nothing of checkpoints, families or probes.

Its door: `observe` and its `Call`, `AttentionWatch` and its `AttentionShape`, `AttentionTap` and
its `AttentionCall`, `mixtures_of` and its `Mixture`, `Answers`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
