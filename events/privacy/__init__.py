"""The check of reports that leave: it reads a report as an attacker would, and refuses it if anything private is found.

`scan` looks by rules, by names of fields and by values that are known to be private. `require_public` is the gate of
every published report: it also holds a report to its declared shape. Pure.
"""
