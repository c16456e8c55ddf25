"""The steps of the tick, one package each, and the packages that use them."""
