"""Random sequences of everything that may happen, beside plain models (Hypothesis, stateful)."""
