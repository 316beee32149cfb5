from . import shards as shards, tokenizing as tokenizing
from .examples import (
    Examples as Examples,
    Limits as Limits,
    few_examples as few_examples,
)
from .reading import Inputs as Inputs, read_inputs as read_inputs
from .shards import Budget as Budget, Choice as Choice
