"""The migrations, one file for each version of the schema: tables as SQL for each database, rules as guards."""
