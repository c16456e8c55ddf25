"""The HTTP server: API, webhooks, gate, admin, cron, health, metrics and console."""
