"""What all pages share: templates, static files, figures, charts."""
