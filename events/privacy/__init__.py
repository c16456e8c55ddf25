"""The privacy check of reports for publication.

This package is pure. A report with a private value is rejected.

`scan` searches by rules, by names of fields, and by values that are known to be private. `require_public` is the gate
of every published report. It also compares a report with its declared shape.
"""
