"""Lives of the guard: products that ask before they act, people who say what may be used, and a judge of both."""
