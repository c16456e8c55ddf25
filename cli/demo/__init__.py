"""The console's demo: a month of a product, made by real commands and ticks.

Guarantee: the demo writes only the rows of hosts by hand. The same time gives the same month.
"""
