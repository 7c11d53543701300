"""Layers and initialisations that two or more families share."""
