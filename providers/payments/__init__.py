"""Payment services, which take money for credits; a billing provider (`drawdown.providers.protocol`) takes usage."""
