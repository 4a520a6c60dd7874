"""A finished run -> the table that readers see."""
