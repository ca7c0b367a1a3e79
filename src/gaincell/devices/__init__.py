"""One gain cell: its current, how its voltage decays, how it differs from its neighbours."""
