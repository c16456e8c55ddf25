"""What libraries log by the standard library stands in the log as every other line does."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, structlog
from drawdown.cli.startup import set_up_logs
set_up_logs("INFO"); set_up_logs("INFO")
structlog.get_logger().info("ours", org="acme")
logging.getLogger("apscheduler.scheduler").warning("Run time of job %s was missed\\nSELECT secret", "tick")
logging.getLogger("asyncio").info("not told")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("procrastinate").exception("job failed \\x1b[31m")
"""


def test_library_log_lines_have_the_format_of_all_log_lines() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    ours, missed, failed = map(json.loads, done.stderr.splitlines())
    assert (ours["event"], ours["level"], ours["org"]) == ("ours", "info", "acme")
    assert missed["event"] == "Run time of job tick was missed" and missed["logger"] == "apscheduler.scheduler"
    assert (missed["level"], failed["level"]) == ("warning", "error")
    assert ours.keys() - {"org"} == missed.keys() - {"logger"} == failed.keys() - {"logger", "exception"}
    assert "ZeroDivisionError" in failed["exception"] and "\x1b" not in failed["event"]
    assert "secret" not in done.stderr
