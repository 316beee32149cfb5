from .answers import Answers as Answers
from .attention import (
    KERNELS as KERNELS,
    OTHER_KEYS as OTHER_KEYS,
    AttentionCall as AttentionCall,
    AttentionListener as AttentionListener,
    AttentionTap as AttentionTap,
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
from .headwrites import LINEAR_CLASSES as LINEAR_CLASSES, head_writes as head_writes
from .normscale import SCALE_KINDS as SCALE_KINDS, scale as scale
from .valuegraph import Passed as Passed, Passing as Passing, Value as Value, passed as passed
