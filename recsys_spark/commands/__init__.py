"""The commands beside the stages: runs, reports, tuning, faults."""
