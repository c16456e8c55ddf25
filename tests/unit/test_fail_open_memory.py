"""What a server's guard remembers for when its database is away."""

from __future__ import annotations

from drawdown.server.api.fail_open import MOST_REMEMBERED, REMEMBERED_MS, Memory


def test_fail_open_memory_evicts_oldest_and_expires() -> None:
    memory: Memory[int] = Memory()
    for number in range(MOST_REMEMBERED + 1):
        memory.put(str(number), number, 5)
        memory.put("kept", -1, 5)
    assert memory.get("0", 5) is None
    assert memory.get("2", 5) == 2
    assert memory.get("kept", 5 + REMEMBERED_MS) == -1
    assert memory.get("kept", 6 + REMEMBERED_MS) is None
    assert memory.get("kept", 4) is None, "a clock that was set back proves nothing"
    memory.forget("kept")
    assert memory.get("kept", 5) is None
