"""The official sender's signature of webhooks, to sign with.

Guarantee: it is svix's own code. Its package is not read: that makes nine hundred models of what nobody here asks for,
which takes a second in each process.
"""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

__all__ = ["Webhook"]

if TYPE_CHECKING:
    from svix.webhooks import Webhook
else:
    _package = find_spec("svix")
    _own = spec_from_file_location("svix_webhooks", Path(_package.origin).with_name("webhooks.py"))
    _module = module_from_spec(_own)
    _own.loader.exec_module(_module)
    Webhook = _module.Webhook
