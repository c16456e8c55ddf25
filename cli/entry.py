"""Start the command `drawdown`.

Guarantee: if a person presses Ctrl-C while Python imports the program, the program ends with one line, as it does
later.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, and end the process with its exit status."""
    try:
        from drawdown.cli.main import main as run  # a tenth of a second, in which a person may press Ctrl-C
    except KeyboardInterrupt:
        sys.stderr.write("drawdown: stopped before it began\n")
        sys.exit(75)  # `Exit.LEFT`, which is not imported yet
    run()
