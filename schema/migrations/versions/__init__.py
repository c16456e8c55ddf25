"""One file a schema version; tables as SQL per database, rules as guards."""
