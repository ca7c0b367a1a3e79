"""What a chip is: its description, its file, and measured devices that enter it."""
