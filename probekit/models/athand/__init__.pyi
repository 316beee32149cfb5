from .borrowed import borrowed as borrowed
from .digests import weights_digest as weights_digest
from .freshstate import FreshState as FreshState
from .given import (
    AtHand as AtHand,
    at_hand as at_hand,
    inner_model as inner_model,
    is_compiled as is_compiled,
)
