"""How programs call it: webhooks, the gate, admin, health and metrics over HTTP."""
