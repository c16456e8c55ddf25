"""What cells say was used, beside what came in from them."""
