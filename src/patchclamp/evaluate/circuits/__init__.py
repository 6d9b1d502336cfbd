"""circuits: is a set of units what carries the behaviour? Faithfulness, completeness, minimality, sufficiency."""
