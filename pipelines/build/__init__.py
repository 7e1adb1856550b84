"""From the fields of a Config to the parts they describe."""
