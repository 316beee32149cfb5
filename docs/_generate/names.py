"""What a type in a signature means: a class of probekit's has one page, wherever its file lies.

A signature names the module that holds a class (`probekit.trace.site.Site`); its page documents the
name that a reader imports (`probekit.Site`). They are one where the last parts are alike.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> Any:
    """Give the link that a reference to a class of probekit's should have; None for others."""
    if node.get("refdomain") != "py" or app.builder is None:
        return None
    domain = env.domains.python_domain
    wanted = node["reftarget"].rsplit(".", 1)[-1]
    found = [name for name in domain.objects if name.rsplit(".", 1)[-1] == wanted]
    if len(found) != 1:
        return None
    node["reftarget"] = found[0]
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], found[0], node, content
    )
