"""Faults injected into a storage, one at a time, and whether what depends on it survives each."""
