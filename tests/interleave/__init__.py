"""Two transactions of the product on a real PostgreSQL, one held after each of its statements (rules S1, S2)."""
