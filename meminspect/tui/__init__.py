"""The app: a reader of captures, and a front of the engine. It never imports torch."""
