"""What runs: one file per step of the tick, and what is built on them."""
