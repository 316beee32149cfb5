"""Models by name: their config and their weights, from wherever `sources` says that they lie.

Knows transformers' loading and the bundled architecture files; nothing of probes. Only safetensors
and GGUF weights are read, and no code from a model's repository is run unless the config says
`trust_remote_code: true`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.import_utils import is_flash_attn_2_available

from probekit.config import ModelConfig, ProbeConfig, said_once
from probekit.errors import ConfigError, PlanError
from probekit.models import trust
from probekit.models.ggufreading import forget_parsed, parsed_once
from probekit.models.outofmemory import out_of_memory
from probekit.models.places import BUILDING, random_weights
from probekit.models.sources import BUNDLED, IN_PYTHON, Source, check_folder, hub_in_reach, locate
from probekit.ranks import local_rank
from probekit.wording import counted, human_bytes, shorten, show_typed

_REASON = 400  # characters of what a library says
# What huggingface_hub says of a setting's type, and the words of it.
_WRONG_TYPE = re.compile(
    r"Field '(?P<key>\w+)' expected (?P<type>.+?), got .*\(value: (?P<given>.*)\)"
)
_TYPES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}


def load_hf_config(config: ProbeConfig, *, bundled: bool = False) -> Any:
    """Load the architecture of a config's model, with its overrides, and no weights.

    Args:
        config: whose `model` to load.
        bundled: also for pretrained weights, fall back on a bundled architecture file where the
            hub is out of reach. Good for planning: such a model cannot be loaded afterwards.

    Raises:
        ConfigError: if it cannot be had; the message says how it could.
    """
    model, where = config.model, config.where("model.name")
    source = locate(model.name, where)
    file = BUNDLED.get(model.name.lower()) if source.on_hub else None
    own_code = None
    if file is not None and model.weights == "random":
        found = _bundled(file)
    else:
        try:
            found, own_code = _read_config(model, source, where)
        except ConfigError:
            if file is None or not bundled or hub_in_reach():
                raise
            found = _bundled(file)
    made = with_overrides(found, model.overrides, config)
    trust.check_kernel(made, config.where("model.overrides") if model.overrides else where)
    made._commit_hash = _commit(model, source)
    made._own_code = own_code and (source.place, own_code)  # set always: a file could name one
    return made


def _read_config(model: ModelConfig, source: Source, where: str) -> tuple[Any, str | None]:
    """Read a checkpoint's architecture, and where its own code lies if that is to run."""
    if model.weights == "pretrained" and not source.on_hub and source.gguf_file is None:
        trust.check_weights(Path(source.place), where)
    hint, arguments = _out_of_reach(model, source), source.arguments(model.revision)
    check_folder(source, where)
    with parsed_once(source), explained(where, hint):
        values, _ = transformers.PreTrainedConfig.get_config_dict(source.place, **arguments)
    if "_diffusers_version" in values:
        raise ConfigError(f"{where}: {model.name} is a model of diffusers. {IN_PYTHON}")
    trust.check_sizes(values, where)
    trust.check_kernel(values, where)
    own_code = trust.check_code(
        values,
        ("AutoConfig", "AutoModelForCausalLM"),
        place=source.place,
        where=where,
        trusted=model.trust_remote_code,
    )
    with parsed_once(source), explained(where, hint):
        found = transformers.AutoConfig.from_pretrained(
            source.place, trust_remote_code=model.trust_remote_code, **arguments
        )
    return found, own_code


def _bundled(file: str) -> Any:
    text = (resources.files("probekit.models") / "architectures" / f"{file}.json").read_text()
    return transformers.AutoConfig.for_model(**json.loads(text))


def _commit(model: ModelConfig, source: Source) -> str | None:
    """Give the commit of a hub model's config, off the path it has in the hub's cache."""
    if not source.on_hub:
        return None
    found = try_to_load_from_cache(source.place, "config.json", revision=model.revision)
    return Path(found).parent.name if isinstance(found, str) else None


def with_overrides(found: Any, overrides: Mapping[str, Any], config: ProbeConfig) -> Any:
    """Give a copy of an architecture with other settings.

    Raises:
        ConfigError: if it has no such setting, or does not take the value.
    """
    if not overrides:
        return found
    values = found.to_dict()
    values.pop("model_type", None)  # says which class this is; it is no setting
    for key, value in overrides.items():
        own = found.attribute_map.get(key, key)  # num_hidden_layers is n_layer on GPT-2
        if own not in values:
            near = difflib.get_close_matches(key, [*values, *found.attribute_map], n=3)
            raise ConfigError(
                f"{config.where(f'model.overrides.{key}')}: {found.model_type} has no setting "
                f"{key!r}{'; the nearest: ' + ', '.join(near) if near else ''}"
            )
        values[own] = value
    trust.check_sizes(values, config.where("model.overrides"))
    kinds = values.get("layer_types")
    n_layers = values.get(found.attribute_map.get("num_hidden_layers", "num_hidden_layers"))
    if kinds is not None and "layer_types" not in overrides and len(kinds) != n_layers:
        values["layer_types"] = kinds[:n_layers] if n_layers < len(kinds) else None
    where = config.where("model.overrides")
    try:
        with explained(where, f"{found.model_type} does not take them"):
            return type(found).from_dict(values)
    except ConfigError as error:
        if (wrong := _WRONG_TYPE.search(str(error.__cause__))) is None:
            raise
        own = {found.attribute_map.get(key, key): key for key in overrides}
        where = config.where(f"model.overrides.{own.get(wrong['key'], wrong['key'])}")
        wanted = _TYPES.get(wrong["type"], wrong["type"])
        given = show_typed(overrides.get(own.get(wrong["key"], ""), wrong["given"]))
        raise ConfigError(f"{where}: given {given}, expected {wanted}") from error


def model_class(hf_config: Any, where: str = "model.name") -> Any:
    """Choose the class: the one the checkpoint names, or the causal LM of its type.

    Raises:
        ConfigError: if there is none; the message says what to do with such a model.
    """
    if own_code := getattr(hf_config, "_own_code", None):
        place, name = own_code
        return get_class_from_dynamic_module(name, place, revision=hf_config._commit_hash)
    named_there = hf_config.architectures
    for name in named_there if isinstance(named_there, list | tuple) else ():
        named = getattr(transformers, str(name), None)
        if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
            return named
    if type(hf_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(
            f"{where}: transformers {transformers.__version__} has no language model for the "
            f"model type {hf_config.model_type!r}, and its config.json names no class in "
            f"`architectures`{instead_of_tokens(hf_config) or '; name its class there'}"
        )
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(hf_config)]


def instead_of_tokens(hf_config: Any, kind: Any = None) -> str:
    """Say what a model reads beside token ids, and what to do then; "" where that is not known."""
    reads = _READS.get(getattr(kind, "main_input_name", ""))
    if reads is None and getattr(hf_config, "vision_config", None) is not None:
        reads = "images beside text"
    if reads is None and getattr(hf_config, "is_encoder_decoder", None) is True:
        reads = "two texts, one in its encoder and one in its decoder"
    if reads is None and hasattr(hf_config, "image_size"):
        reads = "images"
    return "" if reads is None else f": it reads {reads}. {IN_PYTHON}"


_READS = {
    "pixel_values": "images",
    "pixel_values_videos": "videos",
    "input_values": "sound",
    "input_features": "sound",
}


def compute_dtype(model: ModelConfig, hf_config: Any) -> torch.dtype:
    """Give the dtype a model runs in: as asked, or as its checkpoint says, or float32.

    Raises:
        ConfigError: if the checkpoint says something else than a float.
    """
    if model.dtype != "auto":
        return getattr(torch, model.dtype)  # type: ignore[no-any-return]
    found = hf_config.get_text_config().dtype or hf_config.dtype or torch.float32
    dtype = getattr(torch, found, None) if isinstance(found, str) else found
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(
            f"model.dtype: the checkpoint of {model.name} is in {found}, in which nothing is "
            "computed; set float32, bfloat16 or float16"
        )
    return dtype


def compute_device(model: ModelConfig, where: str) -> torch.device:
    """Give the device a model runs on: of several GPUs the one of this worker's own number.

    Raises:
        ConfigError: if this machine has no such device.
    """
    has = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if model.device == "auto":
        device = torch.device(next(kind for kind, there in has.items() if there))
    else:
        device = torch.device(model.device)
    n_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if device == torch.device("cuda") and n_devices > 1 and (own := local_rank()) is not None:
        return torch.device("cuda", own % n_devices)
    if not has[device.type] or (device.index or 0) >= n_devices:
        there = [k for k, v in has.items() if v]
        raise ConfigError(f"{where}: there is no {model.device} here; there is: {', '.join(there)}")
    return device


def check_kernel(config: ProbeConfig, dtype: torch.dtype) -> None:
    """Refuse an attention kernel that cannot run here, with all that it needs.

    Raises:
        PlanError: naming what is missing. Where its package is, transformers would fetch a native
            library from the hub: only with the rights that `trust_remote_code` gives.
    """
    if config.model.attention != "flash_attention_2":
        return
    device = compute_device(config.model, config.where("model.device"))
    needs = []
    if device.type != "cuda":
        needs.append(f"a CUDA device (this run is on {device.type})")
    if dtype not in (torch.float16, torch.bfloat16):
        needs.append(f"model.dtype: bfloat16 or float16 (this run computes in {_name(dtype)})")
    if not is_flash_attn_2_available() and not config.model.trust_remote_code:
        needs.append("the package flash-attn (pip install flash-attn)")
    if needs:
        raise PlanError(
            f"{config.where('model.attention')}: flash_attention_2 needs {'; '.join(needs)}. "
            "sdpa is fast too, and runs everywhere"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def load_model(
    config: ProbeConfig, hf_config: Any, device: torch.device, attention: str = "auto"
) -> Any:
    """Load or build the model, in eval mode, on its device.

    Raises:
        ConfigError: if its weights cannot be had, do not fit the architecture or are too large
            for the device; the message says what to do.
    """
    model = config.model
    kind, dtype = model_class(hf_config), compute_dtype(model, hf_config)
    kernel: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    if model.weights == "random":
        # Built on the CPU whatever the device is: the same seed gives the same weights there.
        with random_weights(config.seed), explained(config.where("model"), ""):
            loaded = kind._from_config(hf_config, dtype=dtype, **kernel)
    else:
        where = config.where("model.name")
        source = locate(model.name, where)
        # The very commit that was planned, and that a run which goes on must have.
        revision = hf_config._commit_hash or model.revision
        with parsed_once(source), BUILDING, explained(where, _out_of_reach(model, source)):
            loaded, report = kind.from_pretrained(
                source.place,
                config=hf_config,
                dtype=dtype,
                use_safetensors=source.gguf_file is None,
                trust_remote_code=False,  # its class is chosen above; this is for what else it has
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
                **kernel,
                **source.arguments(revision),
            )
        forget_parsed()
        _refuse_holes(report, where, model.name)
    return _moved(loaded, device, config).eval()


def _moved(loaded: Any, device: torch.device, config: ProbeConfig) -> Any:
    try:
        return loaded.to(device)
    except Exception as error:
        if not out_of_memory(error):
            raise
        n_bytes = sum(t.nbytes for t in (*loaded.parameters(), *loaded.buffers()))
        raise ConfigError(
            f"{config.where('model.device')}: the weights of {config.model.name} take "
            f"{human_bytes(n_bytes)} in {str(loaded.dtype).removeprefix('torch.')}, for which "
            f"{device} has not enough free memory; set a 16-bit model.dtype, a smaller model, or "
            "model.device: cpu"
        ) from error


def _refuse_holes(report: Any, where: str, name: str) -> None:
    sizes = sorted(report["mismatched_keys"])
    holes = sorted(report["missing_keys"])
    holes += [f"{key}, {list(there)} instead of {list(asked)}" for key, there, asked in sizes]
    if holes:
        shown = said_once(holes)
        raise ConfigError(
            f"{where}: the checkpoint of {name} has no fitting weights for "
            f"{counted(len(holes), 'parameter')} "
            f"({', '.join(shown[:3])}{', ...' if len(shown) > 3 else ''}); they would be random. "
            "Give the checkpoint that belongs to this architecture"
        )


def trust_notes(config: ProbeConfig, hf_config: Any) -> list[str]:
    """Say loudly that a model's own code may run, where it may."""
    if not config.model.trust_remote_code:
        return []
    _, name = getattr(hf_config, "_own_code", None) or ("", "none for the model itself")
    return [
        f"{config.where('model.trust_remote_code')}: CODE THAT {config.model.name} CARRIES RUNS ON "
        f"THIS MACHINE, with your rights ({name}); what it does, and whether it computes what the "
        "model's name promises, probekit cannot tell"
    ]


@contextmanager
def explained(where: str, hint: str) -> Iterator[None]:
    """Turn what transformers and the hub client raise on missing or foreign files into ours."""
    try:
        yield
    except Exception as error:
        # Readers of damaged files raise whatever they stumble on, down to struct.error.
        reason = _short(error)
        if "deserializing header" in reason:  # safetensors, which names no file
            reason = f"a .safetensors file is cut short or damaged; copy it again: {reason}"
        raise ConfigError(f"{where}: {hint or 'the model cannot be built'} ({reason})") from error


def _short(error: Exception) -> str:
    """Give the first line of a message, and the next where that one only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines[:2] if lines and lines[0].endswith(":") else lines[:1]
    return shorten(" ".join(lines), _REASON) or type(error).__name__


def _out_of_reach(model: ModelConfig, source: Source) -> str:
    if not source.on_hub:
        return f"cannot be loaded from {source.gguf_file or source.place}"
    reach = "" if hub_in_reach() else "; the hub is out of reach and it is not in the local cache"
    known = model.name.lower() in BUNDLED
    reach += "" if known else ", and there is no folder of that name here"
    random = (
        "set model.weights: random for the same architecture with seeded random weights, or "
        if known
        else ""
    )
    return (
        f"the pretrained {model.name} cannot be had{reach}: {random}"
        "give a local folder or a .gguf file as model.name"
    )
