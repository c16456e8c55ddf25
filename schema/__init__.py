"""The stored and exchanged forms: tables, migrations, units, windows and errors."""
