"""The examples below each command's help, by its words. Those of "" stand below the program's own.

Guarantee: a test parses each, and asks for one of each command there is.
"""

from __future__ import annotations

from typing import Final

from drawdown.cli.examples.credit import CREDIT
from drawdown.cli.examples.usage import USAGE

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {**USAGE, **CREDIT}
