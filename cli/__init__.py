"""The command line, which builds all parts of the program."""
