"""`drawdown worker`: the shards of one database, worked on by any number of processes on any machines."""
