"""search: find the description that fits a unit, on items of which some are held out."""
