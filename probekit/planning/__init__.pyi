from .indexing import take as take, to_device as to_device
from .making import Plan as Plan, list_modules as list_modules, make_plan as make_plan, plan as plan
from .recipe import Recipe as Recipe
from .resolve import SitePlan as SitePlan
from .sources import (
    ATTENTION as ATTENTION,
    BLOCK_KINDS as BLOCK_KINDS,
    HEAD_KINDS as HEAD_KINDS,
    Source as Source,
)
from .space import free_bytes as free_bytes, shortage as shortage
