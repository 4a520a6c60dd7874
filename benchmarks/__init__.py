"""Measurements beside other libraries; not part of the installed package."""
