"""Each action of the console, filled in: what the tests of all actions go by."""

from __future__ import annotations

from typing import Final

from tests.server.acts import money, oncall, rules
from tests.server.acts.example import Example

EXAMPLES: Final[dict[str, Example]] = {**money.EXAMPLES, **oncall.EXAMPLES, **rules.EXAMPLES}
