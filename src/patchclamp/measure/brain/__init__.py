"""brain: tuning, spike-triggered averages, histograms over trials, reliability, decoding."""
