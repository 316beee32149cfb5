from . import shards as shards, tokenizing as tokenizing
from .examples import (
    Examples as Examples,
    Limits as Limits,
    few_examples as few_examples,
    read_examples as read_examples,
)
from .shards import Budget as Budget, Choice as Choice
