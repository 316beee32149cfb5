from .asking import given as given, plan as plan
from .diskspace import free_bytes as free_bytes, shortage as shortage
from .familytable import (
    VERSIONS as VERSIONS,
    list_families as list_families,
    to_markdown as to_markdown,
)
from .firstlook import look_first as look_first
from .indexing import (
    in_heads as in_heads,
    take as take,
    to_device as to_device,
    to_storage as to_storage,
)
from .making import make_plan as make_plan
from .planned import Plan as Plan
from .recipe import Recipe as Recipe, wide as wide
from .resolve import SitePlan as SitePlan
from .tensors import (
    ATTENTION as ATTENTION,
    BLOCK_KINDS as BLOCK_KINDS,
    HEAD_KINDS as HEAD_KINDS,
    KERNEL_KINDS as KERNEL_KINDS,
    KEY_KINDS as KEY_KINDS,
    MEANING as MEANING,
    Source as Source,
)
from .tokenview import (
    ExampleView as ExampleView,
    TokenView as TokenView,
    view_example as view_example,
)
