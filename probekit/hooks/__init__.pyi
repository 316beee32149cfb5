from .attention import (
    KERNELS as KERNELS,
    SCORE_ARGUMENTS as SCORE_ARGUMENTS,
    AttentionCall as AttentionCall,
    AttentionTap as AttentionTap,
    shown_weights as shown_weights,
)
from .barehooks import BareHooks as BareHooks
from .order import OrderRecorder as OrderRecorder
from .recording import record as record
from .taps import (
    ForwardStopped as ForwardStopped,
    HookManager as HookManager,
    Sink as Sink,
    Tap as Tap,
)
