"""The common parts of all pages: templates, static files, figures and charts."""
