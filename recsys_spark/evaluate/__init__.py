"""How good the configured model is: measured on ratings it has not seen, beside baselines."""
