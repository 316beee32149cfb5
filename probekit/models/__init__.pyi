from . import families as families, trust as trust
from .athand import (
    AtHand as AtHand,
    FreshState as FreshState,
    at_hand as at_hand,
    borrowed as borrowed,
    inner_model as inner_model,
    is_compiled as is_compiled,
    weights_digest as weights_digest,
)
from .changedlater import changed_later as changed_later
from .checkpoints import (
    check_kernel as check_kernel,
    compute_device as compute_device,
    compute_dtype as compute_dtype,
    explained as explained,
    instead_of_tokens as instead_of_tokens,
    load_hf_config as load_hf_config,
    load_model as load_model,
    model_class as model_class,
    trust_notes as trust_notes,
    with_overrides as with_overrides,
)
from .families import Sizes as Sizes
from .files import (
    files_of as files_of,
    missing_files as missing_files,
    no_tokenizer as no_tokenizer,
)
from .forward import layer_of as layer_of
from .ggufreading import forget_parsed as forget_parsed, parsed_once as parsed_once
from .identity import model_digest as model_digest
from .inside import names_inside as names_inside, places_inside as places_inside
from .listing import list_modules as list_modules
from .outofmemory import out_of_memory as out_of_memory
from .rope import depends_on_longest as depends_on_longest, length_border as length_border
from .skeleton import (
    Skeleton as Skeleton,
    build_skeleton as build_skeleton,
    forward_arguments as forward_arguments,
    look_at as look_at,
    plain_tokens as plain_tokens,
)
from .sources import Source as Source, hub_in_reach as hub_in_reach, locate as locate
from .switching import settle as settle
