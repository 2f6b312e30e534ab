"""The two languages: plain Python, and the restricted one with its guards and the facades that `import` returns."""
