"""The parts that all pages share: templates, static files, figures and charts."""
