from .borrowed import borrowed as borrowed
from .freshstate import FreshState as FreshState
from .given import AtHand as AtHand, at_hand as at_hand, is_compiled as is_compiled
