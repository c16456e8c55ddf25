"""The console's demo: a month of a product, made by real commands and ticks.

Guarantee: the demo writes no rows by hand, except those of hosts. The same time gives the same month.
"""
