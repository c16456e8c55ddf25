"""One module for each page: what it reads, as its template shows it."""
