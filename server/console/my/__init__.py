"""The small face for an organisation's own people, at /my/."""
