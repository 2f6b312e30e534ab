# advice: traceback.format_exc()
try:
    1 / 0
except ZeroDivisionError as e:
    e.__traceback__
