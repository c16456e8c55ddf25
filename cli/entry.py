"""Start the command `drawdown`.

Guarantee: if you press Ctrl-C, the program ends with one line, even while Python still imports the program.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, and end the process with its exit status."""
    try:
        from drawdown.cli.main import main as run  # takes 0.1 s, in which a person may press Ctrl-C
    except KeyboardInterrupt:
        sys.stderr.write("drawdown: stopped before it began\n")
        sys.exit(75)  # `Exit.LEFT`, which is not imported yet
    run()
