"""The pages of the console, in one module for each page."""
