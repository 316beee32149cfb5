from . import families as families, trust as trust
from .checkpoints import (
    Source as Source,
    compute_device as compute_device,
    compute_dtype as compute_dtype,
    explained as explained,
    hub_in_reach as hub_in_reach,
    load_hf_config as load_hf_config,
    load_model as load_model,
    locate as locate,
    model_class as model_class,
    model_digest as model_digest,
    trust_notes as trust_notes,
    with_overrides as with_overrides,
)
from .families import Sizes as Sizes, portable_names as portable_names
from .memory import out_of_memory as out_of_memory
from .skeleton import (
    BATCH as BATCH,
    POSITION as POSITION,
    TOKEN as TOKEN,
    AttentionShape as AttentionShape,
    Call as Call,
    Skeleton as Skeleton,
    Slot as Slot,
    build_skeleton as build_skeleton,
    forward_arguments as forward_arguments,
    layer_of as layer_of,
)
