"""tasks: a behaviour as clean and corrupted inputs, answers and foils, and a metric."""
