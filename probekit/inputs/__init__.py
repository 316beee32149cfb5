"""What the model reads: texts become examples, examples tokens, tokens shards and batches.

Knows files, datasets and tokenizers, which examples lie in which shard, and how many share a batch;
nothing of the model but its tokenizer.

Its door: `read_inputs` and its `Examples`, `shards`, `tokenizing`, `decoding`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
