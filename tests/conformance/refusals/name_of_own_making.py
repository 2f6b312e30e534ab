# advice: without two leading and trailing underscores
__result__ = 5
