"""The command line in this process. Guarantee: arguments, environment and answers are those of a process of its own."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from drawdown.cli.main import global_options_first, run
from tests.acceptance.commands import Ended, environment


def inside(url: str, *arguments: str, at: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run `drawdown ARGUMENTS` to its end; a process of its own would take a second to begin."""
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ, environment(url, env), clear=True), redirect_stdout(out), redirect_stderr(err):
        status = run(["--at", at, *global_options_first(list(arguments))])
    return Ended(status, out.getvalue(), err.getvalue())
