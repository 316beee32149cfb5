"""Every causal family that transformers builds from a few sizes in all their spellings."""

from probekit.models.places.tiny.tinymodels import (
    D_HEAD as D_HEAD,
    D_MLP as D_MLP,
    D_MODEL as D_MODEL,
    D_VOCAB as D_VOCAB,
    FAMILIES as FAMILIES,
    N_CTX as N_CTX,
    N_HEADS as N_HEADS,
    N_KV_HEADS as N_KV_HEADS,
    N_LAYERS as N_LAYERS,
    OTHERS as OTHERS,
    OWN as OWN,
    SIZES as SIZES,
    build as build,
    known as known,
    tiny_config as tiny_config,
)
