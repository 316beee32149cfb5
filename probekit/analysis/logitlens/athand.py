"""What keeps the lens from a trace, as far as that can be told without torch and without a network.

Knows what was recorded and which files of the model lie on this machine; loads none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from probekit.analysis.logitlens.choosing import final_of, residuals
from probekit.errors import ConfigError, ProbekitError, StoreError

if TYPE_CHECKING:
    from probekit.config import ProbeConfig
    from probekit.trace import Trace


def config_of(trace: Trace) -> ProbeConfig:
    """Give the config that a trace was made with, at the commit that it was made with.

    Raises:
        ConfigError: if the trace does not say it, or says what no config is.
    """
    from probekit.config import load_config  # pydantic, which reading does without

    text = trace.provenance.get("config")
    if text is None:
        raise ConfigError("the trace does not say which model it was made with")
    try:
        tree = yaml.safe_load(str(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"the config in the trace is no YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError("the config in the trace holds no keys")
    # A shard alone has the keys that decide; where the trace lay is none of them.
    store = tree.get("store")
    known = store if isinstance(store, dict) else {}
    config = load_config({**tree, "store": {"path": "runs/any", **known}})
    commit = trace.provenance.get("model_commit") or config.model.revision
    return changed(config, revision=commit)


def changed(config: ProbeConfig, **model: object) -> ProbeConfig:
    """Give a config with other keys of `model`."""
    from probekit.config import load_config

    tree = config.model_dump(mode="json", exclude_unset=True)
    return load_config({**tree, "model": {**tree["model"], **model}})


def what_lens_lacks(trace: Trace) -> str | None:
    """Say in one line what keeps the lens from a trace: for who must not load or run just anything.

    Nothing is downloaded for it, and no code that comes with a model runs.

    Returns:
        None where nothing is known to be in the way; loading may fail all the same.
    """
    from probekit.models import files_of

    try:
        final_of(trace, residuals(trace)[0].rows)
        config = config_of(trace)
        if config.model.trust_remote_code:
            return f"{config.model.name} runs code of its own, which a look at a trace must not"
        if config.model.is_in_memory:
            return f"the model was in memory ({config.model.name}): lens(trace, model=...) takes it"
        if config.model.weights == "random":
            return f"the weights of {config.model.name} are random: a whole model would be drawn"
        files = files_of(config)
    except (ConfigError, StoreError) as error:
        return _first_line(error)
    if files is None or not any(file.suffix in (".safetensors", ".gguf") for file in files):
        return f"the weights of {config.model.name} are not on this machine"
    return None


def _first_line(error: ProbekitError) -> str:
    return str(error).partition("\n")[0]
