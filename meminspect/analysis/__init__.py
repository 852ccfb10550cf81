"""Pure functions over captures and theories: documents, peaks, bills, verdicts."""
