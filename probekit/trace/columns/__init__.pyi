from .axistable import AxisTable as AxisTable, Names as Names
from .knownrows import CountedOn as CountedOn, FirstRows as FirstRows, Numbered as Numbered
from .opened import Opened as Opened, said_apart as said_apart
from .usercolumns import UserColumns as UserColumns
