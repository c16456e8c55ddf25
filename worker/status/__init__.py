"""The state of everything: what waits, since when, and what to do; the figures behind the metrics."""
