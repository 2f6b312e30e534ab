# language: restricted
# expect: rejected error
# why: No source line says import.
escaped([f("posix") for f in [__import__]])
