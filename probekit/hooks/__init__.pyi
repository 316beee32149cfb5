from . import attention as attention
from .barehooks import BareHooks as BareHooks
from .computing import computed as computed
from .executionorder import OrderRecorder as OrderRecorder
from .recording import record as record
from .taps import (
    ForwardStopped as ForwardStopped,
    HookManager as HookManager,
    Sink as Sink,
    Tap as Tap,
)
