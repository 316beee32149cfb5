from . import decoding as decoding, shards as shards, tokenizing as tokenizing
from .chatting import Chats as Chats, template_in as template_in
from .choosing import (
    GENERATED as GENERATED,
    NO_SPOTS as NO_SPOTS,
    PROMPT as PROMPT,
    Choice as Choice,
    Choices as Choices,
)
from .contents import Codec as Codec
from .documents import Splitting as Splitting
from .examples import Examples as Examples, Limits as Limits
from .making import few_examples as few_examples, look_through as look_through
from .reading import (
    Origin as Origin,
    files_of as files_of,
    read_inputs as read_inputs,
    sealed_inputs as sealed_inputs,
)
from .shards import (
    ALONE as ALONE,
    ANY_LENGTHS as ANY_LENGTHS,
    ONE_LENGTH as ONE_LENGTH,
    Budget as Budget,
)
from .specialtokens import SpecialTokens as SpecialTokens
from .spots import find_spots as find_spots
