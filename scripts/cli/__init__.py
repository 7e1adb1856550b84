"""What commands share: options, and text for a terminal."""
