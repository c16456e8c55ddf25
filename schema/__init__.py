"""What is stored and exchanged: tables, migrations, units, windows, errors."""
