"""The registry of export formats: one file each, one line here."""
