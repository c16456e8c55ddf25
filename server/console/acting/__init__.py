"""What people change in the console: a form, a dry run of it, and the deed."""
