from .checking import Checked as Checked, self_check as self_check
from .rehearsal import ROOM_BYTES as ROOM_BYTES
