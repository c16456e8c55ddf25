"""The HTTP interface for programs: webhooks, the gate, admin, health and metrics."""
