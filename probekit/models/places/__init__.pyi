from .derived import Derived as Derived, derived as derived
from .familyrows import FAMILIES as FAMILIES, Family as Family, Refusal as Refusal
from .identities import IDENTITIES as IDENTITIES
from .names import (
    ATTENTION_NAMES as ATTENTION_NAMES,
    PORTABLE_NAMES as PORTABLE_NAMES,
    TAPPED_NAMES as TAPPED_NAMES,
    Place as Place,
    Unembedding as Unembedding,
    in_order as in_order,
)
from .tiny import (
    BUILDING as BUILDING,
    random_weights as random_weights,
    tinymodels as tinymodels,
)
