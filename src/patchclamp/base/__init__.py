"""base: what every floor stands on: errors, statistics, folds, areas, shuffles, files, optional packages."""
