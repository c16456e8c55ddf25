"""The Python client of Drawdown.

The client sends usage in the background, and Drawdown counts each event once. A program can check a use at the guard
before the use.
"""

from drawdown_client.async_client import AsyncClient
from drawdown_client.async_guard import AsyncBudget
from drawdown_client.client import Client
from drawdown_client.clock import World
from drawdown_client.errors import BadItem, ClientError, Closed, QueueFull, Refused, Unreachable, Unsent
from drawdown_client.guard import Budget
from drawdown_client.guard_words import Blocked, Decision, WayOut, Wish
from drawdown_client.items import Event, Item, Result
from drawdown_client.reads import Balance, Usage, UsageRow
from drawdown_client.settings import Settings

__all__ = [
    "AsyncBudget",
    "AsyncClient",
    "BadItem",
    "Balance",
    "Blocked",
    "Budget",
    "Client",
    "ClientError",
    "Closed",
    "Decision",
    "Event",
    "Item",
    "QueueFull",
    "Refused",
    "Result",
    "Settings",
    "Unreachable",
    "Unsent",
    "Usage",
    "UsageRow",
    "WayOut",
    "Wish",
    "World",
]
