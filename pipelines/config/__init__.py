"""Configs: the groups of fields that algorithms share, their checks, and their JSON form."""
