"""The tables.

`whole.py` has all of them. A command imports only the modules of the tables that it uses.
"""
