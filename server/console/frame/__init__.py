"""The common part of all pages: templates, static files, figures, charts."""
