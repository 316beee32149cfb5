from .beats import Beat as Beat, beats_of as beats_of
from .claimfiles import Claim as Claim, claims_of as claims_of, is_claiming as is_claiming
from .claims import (
    Claims as Claims,
    clear_claims as clear_claims,
    living_elsewhere as living_elsewhere,
    living_here as living_here,
)
from .watch import Watch as Watch, lease_s as lease_s
