"""The console's demo: a month of a product, made by real commands and ticks.

Guarantee: the demo writes only the samples and sandboxes of hosts without a command. The same time gives the same
month.
"""
