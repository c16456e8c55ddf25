"""The migrations, one file for each version of the schema.

A migration contains SQL for the tables of each database, and guards for the rules.
"""
