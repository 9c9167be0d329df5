"""What is read of a finished run: draws, tables, checks, ArviZ. Nothing here runs a chain."""
