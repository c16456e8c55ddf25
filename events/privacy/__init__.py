"""What may leave: a report is read as one who looks for something private reads it, and refused where there is any.

`scan` looks by rules, by names of fields and by values that are known to be private. `require_public` is the gate of
whatever is published: it holds a report to the shape that is declared for it, too. Pure.
"""
