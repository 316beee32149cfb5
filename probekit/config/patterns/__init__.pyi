from .globs import MAX_EDGES as MAX_EDGES, compile_glob as compile_glob, match_paths as match_paths
from .nearmatches import (
    nearest as nearest,
    no_match as no_match,
    runs as runs,
    unmatched_choices as unmatched_choices,
)
from .saidonce import faults_once as faults_once, said_once as said_once
