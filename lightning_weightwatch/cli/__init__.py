"""The command line: `lightning-weightwatch analyze`, `describe` and `diagnose`."""
