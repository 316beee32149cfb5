"""How the docs are built: `make docs`.

Nothing here asks a network: no inventory of another project is fetched, and the theme brings its
own fonts and scripts. What a page needs of the code is written by docs/_generate before it is read.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from probekit.version import __version__  # noqa: E402

# What runs in a notebook's kernel says nothing of progress, and asks no hub.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm's, of a Jupyter without widgets
}
python_path = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, python_path))

project = "probekit"
author = "the probekit developers"
project_copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "_generate",
]

# The notebooks on SmolLM2 are read as .ipynb, with their outputs; each .md beside is the source.
exclude_patterns = ["_build", "_made", "_generate"]
exclude_patterns += ["examples/*.md", "gallery.md", "tutorials/labelled-probe.md"]

smartquotes_action = "qe"  # no dashes: they would make one of the two of an option
default_role = "code"  # what docstrings mean by single backticks

html_theme = "furo"
html_title = f"probekit {release}"
html_static_path = ["_static"]
html_css_files = ["probekit.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False}
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Notebooks on the sample model run at each build, in a folder of their own.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_execution_show_tb = True
nb_output_stderr = "remove-warn"
nb_merge_streams = False

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Names of other projects, whose inventories would have to be fetched, and of Python itself.
_ELSEWHERE = (
    "builtins|collections|contextlib|dataclasses|os|pathlib|typing|types|abc|enum|re|"
    "einops|h5py|matplotlib|mpl_toolkits|numpy|np|npt|pandas|pd|pydantic|rich|torch|"
    "transformers|xarray|xr"
)
# And classes that a signature names and that no reader holds.
_PLUMBING = r"probekit\.(config|handover|hooks|inputs|models|planning|store|trace)\."
nitpick_ignore_regex = [(r"py:.*", rf"({_ELSEWHERE})\..*"), (r"py:class", rf"{_PLUMBING}.*")]
nitpick_ignore = [
    ("py:class", name)
    for name in (
        *("Any", "Callable", "Iterable", "Iterator", "Mapping", "Self", "Sequence"),
        *("Literal", "ArrayLike", "NDArray", "Path", "str", "int", "float", "bool", "None"),
        # Short names of our own for what may be written there; a docstring says what.
        *("Array", "Axes", "Batch", "Figure", "Neuron", "OnStage", "Patterns", "Scalar", "Watcher"),
        "ProbeConfig",  # its page is the reference of the config
        "str | Path | Mapping[str",  # Python's own domain cuts this type in two
    )
]
