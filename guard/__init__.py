"""The pure rules of the guard, which decide if a use is allowed now, and why."""
