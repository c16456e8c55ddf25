"""The steps of the tick, one room each, and the rooms that are built on them."""
