"""What losses are made of: their keys, their targets, and what several of them share."""
