"""One folder per run, the log of what is published, and what keeps both whole."""
