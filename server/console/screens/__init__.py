"""The pages of the console, a module for each: what a page reads for its template."""
