"""Every causal family that transformers builds from a few sizes in all their spellings."""

__all__ = [
    *("D_HEAD", "D_MLP", "D_MODEL", "D_VOCAB", "FAMILIES", "N_CTX", "N_HEADS", "N_KV_HEADS"),
    *("N_LAYERS", "OTHERS", "OWN", "SIZES", "build", "known", "tiny_config"),
]
