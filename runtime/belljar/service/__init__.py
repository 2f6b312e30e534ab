"""Belljar as a service: over HTTP, and over the Model Context Protocol."""
