"""Copy the provider's verdict to the organisation.

Guarantee: an older read of a provider never overwrites the verdict of a newer read.

Tests: tests/integration/test_watch.py, tests/unit/test_decide.py
"""
