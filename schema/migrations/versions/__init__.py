"""The migrations, one file for each version of the schema.

A migration has tables as SQL for each database, and rules as guards.
"""
