"""The demo that a console shows: a month of life of a small product, made by the real commands and ticks.

Guarantee: no row is written by hand, but for those that hosts write. The same moment gives the same month.
"""
