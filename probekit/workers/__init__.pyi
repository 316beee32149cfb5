from .local import follow_parent as follow_parent, run_with_workers as run_with_workers
from .onray import run_on_ray as run_on_ray
from .status import (
    Observer as Observer,
    RunStatus as RunStatus,
    WorkerStatus as WorkerStatus,
    status as status,
)
