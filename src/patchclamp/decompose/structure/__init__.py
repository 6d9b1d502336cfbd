"""structure: decompositions by what a network does with its activity: interaction bases, partitions, codes."""
