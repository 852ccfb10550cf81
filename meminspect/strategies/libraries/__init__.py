"""Strategies that load through the field's libraries, as their users call them: one file each."""
