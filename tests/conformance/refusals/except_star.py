# advice: use plain except
try:
    pass
except* ValueError:
    pass
