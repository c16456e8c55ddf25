"""What on call does to pushes, providers, organisations, usage that waits, runs, cells and backfills."""
