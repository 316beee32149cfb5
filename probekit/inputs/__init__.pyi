from . import shards as shards, tokenizing as tokenizing
from .examples import (
    Examples as Examples,
    Limits as Limits,
    few_examples as few_examples,
    look_through as look_through,
)
from .reading import Origin as Origin, place_of as place_of, read_inputs as read_inputs
from .shards import (
    ALONE as ALONE,
    ANY_LENGTHS as ANY_LENGTHS,
    GENERATED as GENERATED,
    ONE_LENGTH as ONE_LENGTH,
    PROMPT as PROMPT,
    Budget as Budget,
    Choice as Choice,
)
