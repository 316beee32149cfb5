from .answers import Answers as Answers
from .attention import (
    KERNELS as KERNELS,
    OTHER_KEYS as OTHER_KEYS,
    AttentionCall as AttentionCall,
    AttentionListener as AttentionListener,
    AttentionTap as AttentionTap,
    attended as attended,
    shown_weights as shown_weights,
)
from .attentionshape import (
    AttentionShape as AttentionShape,
    AttentionWatch as AttentionWatch,
    HeadsAt as HeadsAt,
)
from .calls import (
    BATCH as BATCH,
    FIRST as FIRST,
    POSITION as POSITION,
    SECOND as SECOND,
    TOKEN as TOKEN,
    Call as Call,
    Slot as Slot,
    compared as compared,
    observe as observe,
)
from .choices import (
    CHOICES as CHOICES,
    MIXED as MIXED,
    mixes_tokens as mixes_tokens,
    router_beside as router_beside,
    routing_of as routing_of,
)
from .eachexpert import each_expert as each_expert
from .experts import (
    EACH_EXPERT as EACH_EXPERT,
    EXPERT_KINDS as EXPERT_KINDS,
    OF_CHOICES as OF_CHOICES,
    Mixture as Mixture,
    Reading as Reading,
    Routed as Routed,
    expert_blocks as expert_blocks,
    expert_names as expert_names,
    mixtures_of as mixtures_of,
)
from .headwrites import (
    LINEAR_CLASSES as LINEAR_CLASSES,
    head_writes as head_writes,
    is_plain_map as is_plain_map,
)
from .modulepaths import block_of as block_of, layer_of as layer_of
from .normscale import SCALE_KINDS as SCALE_KINDS, scale as scale
from .places import Axes as Axes, places_first as places_first, sizes_of as sizes_of
from .positions import numbers_positions_itself as numbers_positions_itself
from .valuegraph import Passed as Passed, Passing as Passing, Value as Value, passed as passed
