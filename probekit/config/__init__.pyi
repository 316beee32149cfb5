from .chats import TemplateInputs as TemplateInputs
from .datasetinputs import DatasetInputs as DatasetInputs
from .fields import (
    ALL_COLUMNS as ALL_COLUMNS,
    ByteCount as ByteCount,
    parse_slice as parse_slice,
)
from .format1 import digest_of_format_1 as digest_of_format_1
from .generateconfig import GenerateConfig as GenerateConfig
from .inputsconfig import InputsConfig as InputsConfig, RandomInputs as RandomInputs
from .loading import (
    default_of as default_of,
    json_schema as json_schema,
    load_config as load_config,
)
from .patterns import (
    MAX_EDGES as MAX_EDGES,
    compile_glob as compile_glob,
    faults_once as faults_once,
    match_paths as match_paths,
    nearest as nearest,
    no_match as no_match,
    runs as runs,
    said_once as said_once,
    unmatched_choices as unmatched_choices,
)
from .probeconfig import (
    IN_MEMORY as IN_MEMORY,
    EinopsConfig as EinopsConfig,
    ModelConfig as ModelConfig,
    ProbeConfig as ProbeConfig,
    ProbeRule as ProbeRule,
    StoreConfig as StoreConfig,
)
from .recordkinds import (
    PORTABLE_NAMES as PORTABLE_NAMES,
    RECORD_KINDS as RECORD_KINDS,
    RecordKind as RecordKind,
    portable_like as portable_like,
)
from .section import deciding_keys as deciding_keys
from .spots import Spot as Spot, Where as Where
from .yamltext import read_value as read_value
