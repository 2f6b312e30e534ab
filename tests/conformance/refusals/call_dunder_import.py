# advice: use an import statement
__import__("os")
