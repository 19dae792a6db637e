"""The command line: `lightning-weightwatch analyze` and `describe`."""
