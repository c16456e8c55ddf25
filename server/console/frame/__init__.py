"""The parts that all pages share: templates, parts, figures and charts."""
