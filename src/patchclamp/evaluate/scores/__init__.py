"""scores: can a table of scores per unit be believed? Agreement, calibration, controls, stability."""
