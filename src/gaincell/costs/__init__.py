"""What attention in gain cells costs: energy, latency, area and power. See `gaincell.costs.roll_up`."""
