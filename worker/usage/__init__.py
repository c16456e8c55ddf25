"""Usage after it arrived: lists, withdrawals, backfills, quarantine, pruning and folding."""
