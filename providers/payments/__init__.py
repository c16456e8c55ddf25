"""Payment services, which take money for credits.

A billing provider (`drawdown.providers.protocol`) takes usage.
"""
