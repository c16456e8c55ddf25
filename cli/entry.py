"""Where the command `drawdown` begins.

Guarantee: Ctrl-C while the program is still read ends with one line, as it does later.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, and end the process with its exit status."""
    try:
        from drawdown.cli.main import main as run  # a tenth of a second, in which a person may change their mind
    except KeyboardInterrupt:
        sys.stderr.write("drawdown: stopped before it began\n")
        sys.exit(75)  # as `Exit.LEFT`, which is not read yet
    run()
