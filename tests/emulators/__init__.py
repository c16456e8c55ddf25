"""Services that Drawdown talks to, as state machines without I/O, and served over real HTTP."""
