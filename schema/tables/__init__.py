"""The tables. `whole.py` has all of them: what runs a command reads the module of the one it names."""
