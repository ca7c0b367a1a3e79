"""The command line of gaincell."""
