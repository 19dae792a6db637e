"""The command line: `lightning-weightwatch analyze`, `describe`, `diagnose` and `flops`."""
