"""Collectors: in this process, in others, on Ray; and evaluation."""
