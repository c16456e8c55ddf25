"""The engine: the effects that steps yield, and the runner that does them."""
