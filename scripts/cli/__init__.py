"""What the commands share: options, seeds, and text for a terminal."""
