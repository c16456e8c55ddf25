"""Lives in which people and products buy, allot, run, settle, pay out, and months turn, beside the workers' ticks."""
