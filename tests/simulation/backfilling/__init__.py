"""Lives of backfills: what is staged, shown, closed and reverted beside ticks, late samples and flips of provider."""
